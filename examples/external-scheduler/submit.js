// An outside scheduler: everything it knows of Coffer is proto/coffer.proto, docs/JOB-SPEC.md and
// docs/PROTOCOL.md. It submits a signed job, follows its events, and checks the gate's decision.
//
//   node submit.js --key consumer.jwk --image sha256:... [--image-key ID]... \
//                  [--dataset ID=/mount]... [--job job.json] [--profile DIR]
//
// Exit status: 0 released, 3 held, 4 rejected, 5 refused, failed, cancelled or timed out.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { connect, headers, nkeyAuthenticator } from 'nats';
import protobuf from 'protobufjs';
import { jobId, publicJwk, signJws, thumbprint, verifyJws } from './jose.js';

const here = fileURLToPath(new URL('.', import.meta.url));
const { values: args } = parseArgs({
  options: {
    profile: { type: 'string' },
    proto: { type: 'string', default: join(here, '../../proto/coffer.proto') },
    job: { type: 'string', default: join(here, 'job.json') },
    key: { type: 'string' },
    image: { type: 'string' },
    'image-key': { type: 'string', multiple: true, default: [] },
    dataset: { type: 'string', multiple: true, default: [] },
    timeout: { type: 'string', default: '120' },
  },
});
if (!args.key || !args.image) {
  console.error('expected --key FILE and --image sha256:...; see the head of submit.js');
  process.exit(2);
}

const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));
const dataDir = process.env.COFFER_DATA || join(homedir(), '.local/share/coffer');
const profileDir = args.profile || join(dataDir, 'client');
const profile = readJson(join(profileDir, 'profile.json'));
const trust = readJson(join(profileDir, 'trust.json'));
const me = readJson(args.key);

// ---- the messages ------------------------------------------------------------------------------

const root = await protobuf.load(args.proto);
const type = (name) => root.lookupType('coffer.v1.' + name);
const encode = (name, object) => type(name).encode(type(name).create(object)).finish();
const decode = (name, bytes) =>
  type(name).toObject(type(name).decode(bytes), { longs: Number, enums: String, defaults: true });

function replyBody(bytes) {
  const reply = decode('Reply', bytes);
  if (reply.refusal) {
    const r = reply.refusal;
    throw new Error(`refused by ${r.by}: ${r.message} (clause ${r.clause || '-'})`);
  }
  return reply;
}

// ---- the job -----------------------------------------------------------------------------------

// The normal form (docs/JOB-SPEC.md): every member written out.
function makeSpec() {
  const spec = readJson(args.job);
  spec.metadata.nonce = randomBytes(16).toString('base64url');
  spec.workload.image = args.image;
  spec.workload.imageKeys = args['image-key'];
  spec.datasets = args.dataset.map((text) => {
    const cut = text.indexOf('=');
    return { id: text.slice(0, cut), mount: text.slice(cut + 1) };
  });
  spec.output.recipients = [publicJwk(me)];
  return spec;
}

const inbox = () => '_INBOX_client.' + randomBytes(12).toString('hex');

// Schedules durably: the stream's PubAck is the NATS reply, the scheduler's answer comes to the inbox
// in Coffer-Reply-To. Sending the same spec again is the same job, so repeating is safe.
async function schedule(nc, spec) {
  const id = jobId(spec);
  const answers = nc.subscribe(inbox(), { max: 1, timeout: 20000 });
  const h = headers();
  h.set('Nats-Msg-Id', `${id}.schedule`);
  h.set('Coffer-Job', id);
  h.set('Coffer-Reply-To', answers.getSubject());
  const message = encode('ScheduleJob', { specJws: signJws(me, 'coffer-spec+jws', spec) });
  const ack = await nc.request('coffer.v1.job.schedule', message, { headers: h, timeout: 10000 });
  const stored = JSON.parse(new TextDecoder().decode(ack.data));
  if (stored.error) {
    throw new Error(`the stream did not take the job: ${stored.error.description}`);
  }
  for await (const m of answers) {
    const { jobAccepted } = replyBody(m.data);
    if (jobAccepted.job !== id) {
      throw new Error(`the scheduler calls the job ${jobAccepted.job}, we call it ${id}`);
    }
    return id;
  }
}

// Events have numbers without a gap. A subscription may miss some (before it, or while the connection
// was lost): the scheduler is asked for those.
async function follow(nc, id, onEvent) {
  const events = nc.subscribe(`coffer.v1.job.event.${id}`);
  let next = 1;
  let last = null;
  const over = () => last && (last.terminal || last.state === 'held');
  const take = (event) => {
    if (event.seq === next && !over()) {
      next++;
      last = event;
      onEvent(event);
      if (over()) {
        events.unsubscribe(); // ends the loop below
      }
    }
  };
  const catchUp = async () => {
    const query = encode('JobQuery', { events: { job: id, fromSeq: next } });
    const answer = await nc.request('coffer.v1.job.query', query, { timeout: 10000 });
    replyBody(answer.data).query.events.forEach(take);
  };
  const patrol = setInterval(() => catchUp().catch(() => {}), 2000);
  const deadline = setTimeout(() => events.unsubscribe(), 1000 * Number(args.timeout));
  try {
    await nc.flush();
    await catchUp();
    for await (const m of events) {
      const event = decode('JobEvent', m.data);
      if (event.seq > next) {
        await catchUp();
      } else {
        take(event);
      }
    }
  } finally {
    clearInterval(patrol);
    clearTimeout(deadline);
  }
  if (!over()) {
    throw new Error(`job ${id} is still ${last?.state} after ${args.timeout} s`);
  }
  return last;
}

// The decision is signed: whoever carried it could not have changed it.
function checkDecision(jws, id) {
  const decision = verifyJws(jws, 'coffer-decision+jws', trust.gate);
  if (decision.job !== id || decision.consumer !== thumbprint(me)) {
    throw new Error(`the decision is about job ${decision.job} of ${decision.consumer}`);
  }
  return decision;
}

async function fetchDecision(nc, id) {
  const request = encode('FetchResult', { job: id, offset: 0 });
  const answer = await nc.request('coffer.v1.gate.fetch', request, { timeout: 10000 });
  return checkDecision(replyBody(answer.data).fetch.decisionJws, id);
}

// ---- and run it --------------------------------------------------------------------------------

const exitOf = { released: 0, held: 3, rejected: 4 };

async function main() {
  const nc = await connect({
    servers: profile.nats_url.replace(/^tls:/, 'nats:'),
    tls: { ca: readFileSync(join(profileDir, 'nats-ca.pem'), 'utf8') },
    authenticator: nkeyAuthenticator(readFileSync(join(profileDir, 'client.seed'))),
    inboxPrefix: '_INBOX_client',
    name: 'external-scheduler',
  });
  try {
    const spec = makeSpec();
    const decisions = nc.subscribe(`coffer.v1.gate.decision.${jobId(spec)}`);
    let heard = null;
    (async () => {
      for await (const m of decisions) {
        heard = decode('GateDecision', m.data).decisionJws;
      }
    })();
    const id = await schedule(nc, spec);
    console.log(`job ${id} accepted`);
    let start = 0;
    const last = await follow(nc, id, (e) => {
      start = start || e.atMs;
      const seconds = ((e.atMs - start) / 1000).toFixed(3);
      console.log(`  ${e.seq} ${seconds} s  ${e.state}${e.detail ? ': ' + e.detail : ''}`);
    });
    if (last.state === 'released') {
      const decision = await fetchDecision(nc, id);
      console.log(`decision ${decision.outcome}, score ${decision.score}, signature verified`);
      for (const f of decision.files) {
        console.log(`  ${f.path} ${f.type} ${f.bytes} bytes`);
      }
    } else if (heard) {
      const decision = checkDecision(heard, id);
      console.log(`decision ${decision.outcome}, score ${decision.score}, signature verified`);
      decision.reasons.forEach((reason) => console.log(`  ${reason}`));
    } else if (last.reason) {
      console.log(`${last.state}: ${last.reason.message}`);
    }
    return exitOf[last.state] ?? 5;
  } finally {
    await nc.close();
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`external-scheduler: ${error.message}`);
  process.exitCode = 1;
}
