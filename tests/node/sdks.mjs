// What the SDKs of openai and anthropic make of refusals:
// node sdks.mjs '[{"name":…,"method":"get","base":…,"path":…,"headers":{…}}]'
//
// "{sdk}" in a header is the SDK's name.
// Prints one line of JSON: for each SDK and case the class and message of its error, how many requests it has sent, and how many
// seconds it would have slept between them.
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const cases = JSON.parse(process.argv[2]);
const wait = globalThis.setTimeout;
let slept = 0;
globalThis.setTimeout = (callback, ms, ...rest) => {
  // The pause between two requests, and no other timer.
  if (!new Error().stack.includes('utils/sleep')) return wait(callback, ms, ...rest);
  slept += ms;
  return wait(callback, 0, ...rest);
};

async function tried(SDK, sdk, { method, base, path, headers }) {
  let requests = 0;
  slept = 0;
  const counted = (...args) => {
    requests += 1;
    return fetch(...args);
  };
  const client = new SDK({ apiKey: 'none', baseURL: base, fetch: counted });
  const own = Object.entries(headers).map(([name, value]) => [name, value.replace('{sdk}', sdk)]);
  const error = await client[method](path, { headers: Object.fromEntries(own) }).then(() => null, (error) => error);
  return { class: error?.constructor.name, message: error?.message, requests, slept: Math.round(slept / 1000) };
}

const report = {};
for (const [name, SDK] of Object.entries({ openai: OpenAI, anthropic: Anthropic })) {
  report[name] = {};
  for (const one of cases) report[name][one.name] = await tried(SDK, name, one);
}
console.log(JSON.stringify(report));
process.exit(0);
