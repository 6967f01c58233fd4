// A stripe402 client written from the protocol's description alone, for Node 18 and later, without packages.
//
// It does what the protocol's public clients do, and no more, so that a server which satisfies it satisfies them:
// the first request of every call is unpaid; only `accepts[0]` of the header counts; a request that carried a payment
// is never sent again; the clientId is kept in memory.

/** Decodes a header that is base64 of JSON. `null` when it is missing or no such thing. */
export function decodeHeader(value) {
  if (!value) return null;
  try {
    return JSON.parse(Buffer.from(value, 'base64').toString('utf8'));
  } catch {
    return null;
  }
}

/** Encodes a payment for the `payment` header. */
export function encodePayment(payload) {
  return Buffer.from(JSON.stringify({ stripe402Version: 1, ...payload }), 'utf8').toString('base64');
}

/**
 * Makes a client.
 *
 * `onPaymentRequired(requirements, offer)` gets `accepts[0]` and the whole offer, and gives
 * `{ paymentMethodId, topUpAmount? }`, or `null` not to pay. `fetch` can be replaced in tests.
 */
export function createClient({ onPaymentRequired, fetch: send = globalThis.fetch }) {
  let clientId;

  async function request(url, init, payload) {
    const headers = new Headers(init.headers);
    if (payload) headers.set('payment', encodePayment(payload));
    const response = await send(url, { ...init, headers, redirect: 'manual' });
    const receipt = decodeHeader(response.headers.get('payment-response'));
    if (typeof receipt?.clientId === 'string' && receipt.clientId !== '') clientId = receipt.clientId;
    return response;
  }

  /** Like `fetch`, but pays. */
  async function paidFetch(url, init = {}) {
    if (new Headers(init.headers).has('payment')) return request(url, init);
    const first = await request(url, init);
    if (first.status !== 402) return first;
    let refused = first;
    let offer = decodeHeader(first.headers.get('payment-required'));
    if (!offer?.accepts?.[0]) return first;

    if (clientId !== undefined && offer.error !== 'insufficient_credits') {
      const spent = await request(url, init, { clientId });
      if (spent.status !== 402) return spent;
      refused = spent;
      offer = decodeHeader(spent.headers.get('payment-required'));
      if (!offer?.accepts?.[0]) return spent;
    }

    const payment = await onPaymentRequired(offer.accepts[0], offer);
    if (payment === null || payment === undefined) return refused;
    const { paymentMethodId, topUpAmount } = payment;
    const payload = { paymentMethodId };
    if (clientId !== undefined) payload.clientId = clientId;
    if (topUpAmount !== undefined) payload.topUpAmount = topUpAmount;
    return request(url, init, payload);
  }

  return {
    fetch: paidFetch,
    /** The bearer key of the balance; `undefined` before the first payment. */
    get clientId() {
      return clientId;
    },
  };
}
