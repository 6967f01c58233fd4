"""What the Python SDKs of openai and anthropic make of refusals:
python sdks.py '[{"name":…,"method":"get","base":…,"path":…,"headers":{…}}]'

"{sdk}" in a header is the SDK's name.
Prints one line of JSON: for each SDK and case the class and message of its error, how many requests it has sent, and how many
seconds it would have slept between them.
"""

import json
import sys
import time

import anthropic
import openai

CASES = json.loads(sys.argv[1])
slept = []
time.sleep = slept.append


def tried(module, name, case):
    requests = []
    slept.clear()
    client = getattr(module, name)(api_key="none", base_url=case["base"])
    # What it sends goes through one method of its HTTP client.
    send = client._client.send

    def counted(*args, **kwargs):
        requests.append(1)
        return send(*args, **kwargs)

    client._client.send = counted
    try:
        headers = {key: value.replace("{sdk}", name) for key, value in case["headers"].items()}
        getattr(client, case["method"])(case["path"], cast_to=object, options={"headers": headers})
        error = None
    except Exception as caught:
        error = caught
    return {
        "class": type(error).__name__,
        "message": str(error),
        "requests": len(requests),
        "slept": round(sum(slept)),
    }


report = {
    package: {case["name"]: tried(module, name, case) for case in CASES}
    for package, module, name in (("openai", openai, "OpenAI"), ("anthropic", anthropic, "Anthropic"))
}
print(json.dumps(report))
