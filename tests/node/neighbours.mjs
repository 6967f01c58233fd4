// Unmodified clients of other protocols read our 402: node neighbours.mjs GATEWAY_URL
//
// They cannot pay it, because it names no way that they know; but they must read it, skip what is not theirs, and take what is.
// Prints one line of JSON: what each of them says.
import { x402Client, x402HTTPClient, wrapFetchWithPayment } from '@x402/fetch';
import { ExactEvmScheme } from '@x402/evm/exact/client';
import { Transport, Mppx } from 'mppx/client';
import { stripe } from 'mppx/client';
import { privateKeyToAccount } from 'viem/accounts';

const [gateway, payment] = process.argv.slice(2);
const account = privateKeyToAccount(`0x${'11'.repeat(32)}`);
const decode = (header) => JSON.parse(Buffer.from(header, 'base64').toString('utf8'));
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64');
const said = (promise) => promise.then((answer) => `answer ${answer.status}`, (error) => error.message);

const x402 = () => new x402Client().register('eip155:*', new ExactEvmScheme(account));
const transport = Transport.http();

/** A way to pay that they know, beside ours. */
const exact = {
  scheme: 'exact',
  network: 'eip155:8453',
  amount: '50000',
  asset: '0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913',
  payTo: '0x1111111111111111111111111111111111111111',
  maxTimeoutSeconds: 60,
  extra: { name: 'USD Coin', version: '2' },
};

/** What each client makes of one of our answers. */
async function reads(response) {
  const header = response.headers.get('payment-required');
  const offer = decode(header);
  const getHeader = (name) => response.headers.get(name);
  const client = new x402HTTPClient(x402());
  const both = { ...offer, accepts: [...offer.accepts, exact] };
  const withBoth = new Response(null, { status: 402, headers: { 'payment-required': encode(both) } });
  const attempt = async (work) => {
    try {
      return await work();
    } catch (error) {
      return `${error.name}: ${error.message}`;
    }
  };
  return {
    x402: await attempt(async () => client.getPaymentRequiredResponse(getHeader).x402Version),
    x402WithAWayOfItsOwn: await attempt(async () => {
      const required = client.getPaymentRequiredResponse((name) => withBoth.headers.get(name));
      return (await client.createPaymentPayload(required)).accepted.scheme;
    }),
    mppx: await attempt(async () => (await transport.getChallenges(response, {})).length),
    mppxWithAWayOfItsOwn: await attempt(async () => {
      const [challenge] = await transport.getChallenges(withBoth, {});
      return challenge.realm;
    }),
  };
}

const mppx = Mppx.create({
  methods: [stripe({ createToken: async () => 'spt_1', paymentMethod: 'pm_card_visa' })],
  polyfill: false,
});
const url = `${gateway}/api/weather`;
const report = {
  x402Fetch: await said(wrapFetchWithPayment(fetch, x402())(url)),
  mppxFetch: await said(mppx.fetch(url)),
  unpaid: await reads(await fetch(url)),
  head: await reads(await fetch(url, { method: 'HEAD' })),
  refused: await reads(await fetch(url, { headers: { payment } })),
};
console.log(JSON.stringify(report));
