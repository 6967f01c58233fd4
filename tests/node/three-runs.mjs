// One run of a program that pays: node tests/node/three-runs.mjs GATEWAY_URL STRIPE_BASE NUMBER [CVC]
//
// It keeps nothing, so it makes a new token in every process, as the protocol's public clients do. Prints one line of JSON.
import { createClient, decodeHeader } from './client.mjs';

const [gateway, stripeBase, number, cvc] = process.argv.slice(2);

const client = createClient({
  async onPaymentRequired(requirements) {
    const form = { type: 'card', 'card[number]': number, 'card[exp_month]': '12', 'card[exp_year]': '2034' };
    if (cvc) form['card[cvc]'] = cvc;
    const response = await fetch(`${stripeBase}/v1/payment_methods`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${requirements.publishableKey}`,
        'content-type': 'application/x-www-form-urlencoded',
      },
      body: new URLSearchParams(form),
    });
    return { paymentMethodId: (await response.json()).id, topUpAmount: requirements.minTopUp };
  },
});

const paid = [];
let answer;
for (let call = 0; call < 3; call += 1) {
  answer = await client.fetch(`${gateway}/api/weather`);
  await answer.text();
  paid.push(answer.status);
}
const receipt = decodeHeader(answer.headers.get('payment-response'));
console.log(JSON.stringify({ paid, creditsRemaining: receipt?.creditsRemaining, clientId: receipt?.clientId }));
