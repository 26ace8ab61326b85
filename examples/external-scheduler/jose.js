// The little JOSE and canonical JSON that a client of Coffer needs, with Node's own crypto.
import { createHash, createPrivateKey, createPublicKey, sign, verify } from 'node:crypto';

const b64url = (bytes) => Buffer.from(bytes).toString('base64url');

// RFC 8785 for what a job spec may hold: objects, lists, strings, booleans and whole numbers.
export function canonical(value) {
  if (Array.isArray(value)) {
    return '[' + value.map(canonical).join(',') + ']';
  }
  if (value !== null && typeof value === 'object') {
    const members = Object.keys(value).sort();
    return '{' + members.map((k) => JSON.stringify(k) + ':' + canonical(value[k])).join(',') + '}';
  }
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    throw new Error(`a spec holds whole numbers only, found ${value}`);
  }
  return JSON.stringify(value);
}

export function publicJwk({ crv, kty, x, y }) {
  return { crv, kty, x, y };
}

// RFC 7638: the name of a party.
export function thumbprint(jwk) {
  return b64url(createHash('sha256').update(canonical(publicJwk(jwk))).digest());
}

// Compact JWS, ES256. The public key is embedded: a consumer introduces itself.
export function signJws(jwk, typ, payload) {
  const header = { alg: 'ES256', jwk: publicJwk(jwk), kid: thumbprint(jwk), typ };
  const input = b64url(canonical(header)) + '.' + b64url(canonical(payload));
  const key = createPrivateKey({ key: jwk, format: 'jwk' });
  return input + '.' + b64url(sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }));
}

// Verifies against the key of `trusted` that the header names; returns the payload.
export function verifyJws(jws, typ, trusted) {
  const [head, body, signature] = jws.split('.');
  const header = JSON.parse(Buffer.from(head, 'base64url'));
  if (header.alg !== 'ES256' || header.typ !== typ) {
    throw new Error(`expected an ES256 ${typ}, found ${header.alg} ${header.typ}`);
  }
  const jwk = trusted.find((k) => thumbprint(k) === header.kid);
  if (!jwk) {
    throw new Error(`${typ} is signed by ${header.kid}, which nobody here trusts`);
  }
  const key = createPublicKey({ key: publicJwk(jwk), format: 'jwk' });
  const good = verify('sha256', Buffer.from(head + '.' + body), { key, dsaEncoding: 'ieee-p1363' },
                      Buffer.from(signature, 'base64url'));
  if (!good) {
    throw new Error(`the signature of ${typ} does not hold`);
  }
  return JSON.parse(Buffer.from(body, 'base64url'));
}

// A job's name: "j" and 26 base32 digits of the SHA-256 of its spec.
export function jobId(spec) {
  const digest = createHash('sha256').update(canonical(spec)).digest();
  let bits = '';
  for (const byte of digest.subarray(0, 17)) {
    bits += byte.toString(2).padStart(8, '0');
  }
  let id = 'j';
  for (let i = 0; i < 26; i++) {
    id += 'abcdefghijklmnopqrstuvwxyz234567'[parseInt(bits.slice(5 * i, 5 * i + 5), 2)];
  }
  return id;
}
