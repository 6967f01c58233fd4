// A whole life of a balance, against a running gateway: node tests/node/flow.mjs GATEWAY_URL STRIPE_BASE
//
// Buys /api/weather with Stripe's test card, spends until the balance is gone, tops the same client up, spends on, also
// in parallel. Prints one line of JSON; exits 1 with an explanation at the first thing that is not as it should be.
import { createClient, decodeHeader } from './client.mjs';

const PRICE = 500;
const MOST_REQUESTS = 5_000;
const PARALLEL = 8;

class Mismatch extends Error {}

function check(condition, explanation) {
  if (!condition) throw new Mismatch(explanation);
}

/** Makes a PaymentMethod from the test card with the key from the offer, as the protocol demands: directly at Stripe. */
async function tokenise(stripeBase, publishableKey) {
  const response = await fetch(`${stripeBase}/v1/payment_methods`, {
    method: 'POST',
    headers: { authorization: `Bearer ${publishableKey}`, 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({
      type: 'card',
      'card[number]': '4242424242424242',
      'card[exp_month]': '12',
      'card[exp_year]': '2034',
      'card[cvc]': '123',
    }),
  });
  const answer = await response.json();
  check(response.ok, `Stripe answered ${response.status}: ${answer.error?.message}`);
  check(/^pm_\w+$/.test(answer.id), 'Stripe gave no PaymentMethod id');
  return answer.id;
}

/** The receipt of a served answer; its body is read to the end, so that the connection is used again. */
async function receiptOf(response, what) {
  const body = await response.text();
  check(response.status === 200, `${what}: status ${response.status} instead of 200: ${body.slice(0, 300)}`);
  const receipt = decodeHeader(response.headers.get('payment-response'));
  check(receipt !== null, `${what}: no payment-response header that can be decoded`);
  check(receipt.success === true, `${what}: success is ${receipt.success}`);
  check(Number.isInteger(receipt.creditsRemaining), `${what}: creditsRemaining is ${receipt.creditsRemaining}`);
  check(typeof receipt.clientId === 'string' && receipt.clientId !== '', `${what}: no clientId`);
  return receipt;
}

/** An offer as the public clients need it: numbers where they read numbers. */
function checkOffer(requirement, offer) {
  check(offer.stripe402Version === 1, `stripe402Version is ${offer.stripe402Version}`);
  check(offer.resource?.url.endsWith('/api/weather'), `resource.url is ${offer.resource?.url}`);
  check(requirement.scheme === 'stripe', `scheme is ${requirement.scheme}`);
  check(requirement.amount === PRICE, `the price is ${requirement.amount} units instead of ${PRICE}`);
  check(Number.isInteger(requirement.minTopUp) && requirement.minTopUp >= PRICE, `minTopUp is ${requirement.minTopUp}`);
  check(/^pk_(test|live)_/.test(requirement.publishableKey), 'publishableKey is not a publishable key');
}

/** A challenge has no side effect and the same content in header and body. */
async function checkChallenge(url) {
  const response = await fetch(url);
  const body = await response.json();
  check(response.status === 402, `unpaid: status ${response.status} instead of 402`);
  const offer = decodeHeader(response.headers.get('payment-required'));
  check(offer !== null, 'unpaid: no payment-required header that can be decoded');
  check(offer.error === undefined, `unpaid: error is ${offer.error} on a first challenge`);
  check(JSON.stringify(body.accepts) === JSON.stringify(offer.accepts), 'unpaid: header and body differ');
  checkOffer(offer.accepts[0], offer);
}

async function main(gateway, stripeBase) {
  const weather = `${gateway}/api/weather`;
  const health = `${gateway}/api/health`;
  let paid = 0;
  let topUps = 0;
  let credited = 0;

  const client = createClient({
    onPaymentRequired: async (requirement, offer) => {
      checkOffer(requirement, offer);
      topUps += 1;
      credited = requirement.minTopUp;
      return { paymentMethodId: await tokenise(stripeBase, requirement.publishableKey) };
    },
  });

  await checkChallenge(weather);
  const free = await fetch(health);
  await free.text();
  check(free.status === 200, `/api/health: status ${free.status} instead of 200, it should be free`);

  // The first purchase.
  let last = await receiptOf(await client.fetch(weather), 'first purchase');
  paid += 1;
  check(topUps === 1, `first purchase: the callback was called ${topUps} times`);
  check(typeof last.chargeId === 'string' && last.chargeId.startsWith('pi_'), `chargeId is ${last.chargeId}`);
  check(last.creditsRemaining === credited - PRICE, `${last.creditsRemaining} left of ${credited} after the first purchase`);
  const clientId = last.clientId;

  // One after another, until the balance is gone and the card is asked for again.
  while (topUps === 1) {
    check(paid < MOST_REQUESTS, `the balance is not gone after ${paid} requests`);
    const receipt = await receiptOf(await client.fetch(weather), `request ${paid + 1}`);
    paid += 1;
    check(receipt.clientId === clientId, `request ${paid}: another clientId`);
    const before = last.creditsRemaining + (topUps === 2 ? credited : 0);
    check(
      receipt.creditsRemaining === before - PRICE,
      `request ${paid}: ${before} became ${receipt.creditsRemaining}, not ${before - PRICE}`,
    );
    check(topUps === 1 || last.creditsRemaining < PRICE, `topped up with ${last.creditsRemaining} left`);
    check(topUps === 2 || receipt.chargeId === undefined, `request ${paid}: charged a card, not the balance`);
    last = receipt;
  }

  // In parallel, as many as the balance allows: each is deducted once, so the lowest receipt is the balance.
  const parallel = Math.min(PARALLEL, Math.floor(last.creditsRemaining / PRICE));
  if (parallel > 0) {
    const calls = Array.from({ length: parallel }, (_, n) =>
      client.fetch(weather).then((response) => receiptOf(response, `parallel request ${n + 1}`)),
    );
    const receipts = await Promise.all(calls);
    paid += parallel;
    check(topUps === 2, 'parallel requests: the card was asked for although the balance sufficed');
    const lowest = Math.min(...receipts.map((receipt) => receipt.creditsRemaining));
    const expected = last.creditsRemaining - parallel * PRICE;
    check(lowest === expected, `${parallel} parallel requests: ${lowest} left instead of ${expected}`);
    last = { creditsRemaining: lowest };
  }

  // Nothing free was deducted, and nothing was deducted behind our back.
  await (await client.fetch(health)).text();
  if (last.creditsRemaining >= PRICE) {
    const receipt = await receiptOf(await client.fetch(weather), 'last request');
    paid += 1;
    const expected = last.creditsRemaining - PRICE;
    check(receipt.creditsRemaining === expected, `last request: ${receipt.creditsRemaining} left instead of ${expected}`);
    last = receipt;
  }
  return { ok: true, paid, topUps, creditsRemaining: last.creditsRemaining };
}

const [gateway, stripeBase] = process.argv.slice(2).map((url) => url.replace(/\/+$/, ''));
if (!gateway || !stripeBase) {
  console.error('usage: node flow.mjs GATEWAY_URL STRIPE_BASE');
  process.exit(2);
}
try {
  console.log(JSON.stringify(await main(gateway, stripeBase)));
} catch (error) {
  console.error(error instanceof Mismatch ? error.message : error);
  process.exitCode = 1;
}
