// Run with: node --test tests/node/client.test.mjs
import assert from 'node:assert/strict';
import test from 'node:test';

import { createClient, decodeHeader } from './client.mjs';

const requirement = { scheme: 'stripe', currency: 'usd', amount: 500, minTopUp: 50_000, publishableKey: 'pk_test_1' };
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64');

function challenge(error) {
  const offer = { stripe402Version: 1, resource: { url: '/x' }, accepts: [requirement], ...(error && { error }) };
  return new Response(JSON.stringify(offer), { status: 402, headers: { 'payment-required': encode(offer) } });
}

function served(clientId = 'c1') {
  const receipt = { success: true, creditsRemaining: 1, clientId };
  return new Response('ok', { headers: { 'payment-response': encode(receipt) } });
}

/** A fetch that answers in turn and notes the payments it saw. */
function scripted(...answers) {
  const payments = [];
  const fetch = async (_url, init) => {
    payments.push(decodeHeader(init.headers.get('payment')));
    assert.notEqual(answers.length, 0, 'one request too many');
    return answers.shift();
  };
  return { fetch, payments };
}

const pay = async () => ({ paymentMethodId: 'pm_1' });

test('buys, then spends, with an unpaid request first each time', async () => {
  const { fetch, payments } = scripted(challenge(), served(), challenge(), served());
  const client = createClient({ onPaymentRequired: pay, fetch });
  assert.equal((await client.fetch('http://x/')).status, 200);
  assert.equal((await client.fetch('http://x/')).status, 200);
  assert.deepEqual(payments, [
    null,
    { stripe402Version: 1, paymentMethodId: 'pm_1' },
    null,
    { stripe402Version: 1, clientId: 'c1' },
  ]);
});

test('tops up the same client when the balance is gone', async () => {
  const { fetch, payments } = scripted(challenge(), served(), challenge(), challenge('insufficient_credits'), served());
  const onPaymentRequired = async () => ({ paymentMethodId: 'pm_1', topUpAmount: 60_000 });
  const client = createClient({ onPaymentRequired, fetch });
  await client.fetch('http://x/');
  await client.fetch('http://x/');
  const last = { stripe402Version: 1, paymentMethodId: 'pm_1', clientId: 'c1', topUpAmount: 60_000 };
  assert.deepEqual(payments.at(-1), last);
});

test('does not try a key that a first answer calls empty', async () => {
  const { fetch, payments } = scripted(challenge(), served(), challenge('insufficient_credits'), served());
  const client = createClient({ onPaymentRequired: pay, fetch });
  await client.fetch('http://x/');
  await client.fetch('http://x/');
  assert.equal(payments.at(-1).paymentMethodId, 'pm_1');
  assert.equal(payments.length, 4);
});

test('a refused payment is not repeated', async () => {
  const { fetch, payments } = scripted(challenge(), challenge('card_declined'));
  const client = createClient({ onPaymentRequired: pay, fetch });
  assert.equal((await client.fetch('http://x/')).status, 402);
  assert.equal(payments.length, 2);
});

test('a request that already carries a payment is sent once', async () => {
  const { fetch, payments } = scripted(challenge());
  const client = createClient({ onPaymentRequired: pay, fetch });
  const init = { headers: { payment: encode({ stripe402Version: 1, clientId: 'mine' }) } };
  assert.equal((await client.fetch('http://x/', init)).status, 402);
  assert.equal(payments.length, 1);
});

test('null from the callback gives the 402 back', async () => {
  const { fetch } = scripted(challenge());
  const client = createClient({ onPaymentRequired: async () => null, fetch });
  assert.equal((await client.fetch('http://x/')).status, 402);
});

test('without the header it gives up, whatever the body says', async () => {
  const { fetch, payments } = scripted(new Response(JSON.stringify({ accepts: [requirement] }), { status: 402 }));
  const client = createClient({ onPaymentRequired: pay, fetch });
  assert.equal((await client.fetch('http://x/')).status, 402);
  assert.equal(payments.length, 1);
});

test('a key is learnt from an error answer, too', async () => {
  const failed = new Response('no', { status: 502, headers: { 'payment-response': encode({ success: false, clientId: 'c9' }) } });
  const { fetch } = scripted(challenge(), failed);
  const client = createClient({ onPaymentRequired: pay, fetch });
  await client.fetch('http://x/');
  assert.equal(client.clientId, 'c9');
});
