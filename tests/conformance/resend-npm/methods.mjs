// Runs every method of an installed `resend` from npm that this server is to answer; prints what was found, run and refused.
// argv[2]: JSON of {ids, hook, claim}. The list of methods is read from the client itself.
import { createHmac } from 'node:crypto';
import { Resend } from 'resend';

const { ids, hook, claim } = JSON.parse(process.argv[2]);
const resend = new Resend(process.env.RESEND_API_KEY);
const LATER = /^(audiences|automations|broadcasts|contact|events|inboxes|segments|templates|topics)/;
const OWN = /^(emails\.receiving\.(forwardPassthrough|forwardWrapped|downloadRaw))$/; // what forward calls
const EMAIL = { from: 'Acme <hello@postroom.test>', to: ['sdk@example.com'], subject: 's', html: '<p>h</p>' };
let n = 0;

async function made(call) {
  const { data, error } = await call;
  if (error) throw new Error(JSON.stringify(error));
  return data.id ?? data.domain_id;
}
const soon = () => new Date(Date.now() + 86400000).toISOString();
const scheduled = () => made(resend.emails.send({ ...EMAIL, scheduledAt: soon() }));
const domain = () => made(resend.domains.create({ name: `node-${++n}-${claim}` }));
const webhook = () => made(resend.webhooks.create({ endpoint: hook, events: ['email.sent'] }));
const suppression = () => made(resend.suppressions.add({ email: `node-${++n}@example.com` }));
const claimed = async () => (await resend.domains.claims.create({ name: claim })).data.domain_id;
const inWebhook = { webhookId: ids.webhook, eventId: ids.event };

function signed() {
  const secret = Buffer.from('0123456789abcdefghijklmn');
  const timestamp = String(Math.floor(Date.now() / 1000));
  const payload = '{"type":"email.sent"}';
  const signature = 'v1,' + createHmac('sha256', secret).update(`msg_1.${timestamp}.${payload}`).digest('base64');
  return { payload, headers: { id: 'msg_1', timestamp, signature }, webhookSecret: 'whsec_' + secret.toString('base64') };
}

// method → its arguments
const ARGUMENTS = {
  'apiKeys.create': () => [{ name: 'sdk' }],
  'apiKeys.list': () => [],
  'apiKeys.update': () => [ids.api_key, { name: 'sdk 2' }],
  'apiKeys.remove': async () => [await made(resend.apiKeys.create({ name: 'gone' }))],
  'batch.send': () => [[EMAIL, EMAIL]],
  'batch.create': () => [[EMAIL, EMAIL], { batchValidation: 'permissive' }],
  'domains.create': () => [{ name: `node-${++n}-${claim}`, region: 'eu-west-1' }],
  'domains.list': () => [],
  'domains.get': () => [ids.domain],
  'domains.update': async () => [{ id: await domain(), openTracking: true, tls: 'enforced' }],
  'domains.remove': async () => [await domain()],
  'domains.verify': async () => [await domain()],
  'domains.claims.create': () => [{ name: claim }],
  'domains.claims.get': async () => [await claimed()],
  'domains.claims.verify': async () => [await claimed()],
  'emails.send': () => [{ ...EMAIL, attachments: [{ filename: 'a.txt', content: Buffer.from('hi') }] }],
  'emails.create': () => [EMAIL, { idempotencyKey: `node/${Date.now()}` }],
  'emails.get': () => [ids.email],
  'emails.list': () => [],
  'emails.update': async () => [{ id: await scheduled(), scheduledAt: soon() }],
  'emails.cancel': async () => [await scheduled()],
  'emails.share': () => [ids.email],
  'emails.metrics': () => [{ metrics: ['sent', 'delivered'], dimensions: ['period'] }],
  'emails.attachments.get': () => [{ emailId: ids.email, id: ids.sent_attachment }],
  'emails.attachments.list': () => [{ emailId: ids.email }],
  'emails.receiving.get': () => [ids.received],
  'emails.receiving.list': () => [],
  'emails.receiving.forward': () => [{ emailId: ids.received, to: 'fwd@example.com', from: 'hello@postroom.test' }],
  'emails.receiving.attachments.get': () => [{ emailId: ids.received, id: ids.attachment }],
  'emails.receiving.attachments.list': () => [{ emailId: ids.received }],
  'logs.list': () => [],
  'logs.get': () => [ids.log],
  'oauthGrants.list': () => [],
  'oauthGrants.revoke': () => [ids.email],
  'suppressions.add': () => [{ email: `node-${++n}@example.com` }],
  'suppressions.list': () => [],
  'suppressions.get': () => ['never@example.com'],
  'suppressions.remove': async () => [await suppression()],
  'suppressions.batch.add': () => [{ emails: ['x@example.com', 'y@example.com'] }],
  'suppressions.batch.remove': () => [{ emails: ['x@example.com'] }],
  'usage.get': () => [],
  'webhooks.create': () => [{ endpoint: hook, events: ['email.sent'] }],
  'webhooks.get': () => [ids.webhook],
  'webhooks.list': () => [],
  'webhooks.update': () => [ids.webhook, { events: ['email.sent', 'email.delivered'] }],
  'webhooks.remove': async () => [await webhook()],
  'webhooks.rotateSigningSecret': async () => [await webhook()],
  'webhooks.verify': () => [signed()],
  'webhooks.events.list': () => [{ webhookId: ids.webhook }],
  'webhooks.events.get': () => [inWebhook],
  'webhooks.events.replay': () => [inWebhook],
  'webhooks.events.attempts.list': () => [inWebhook],
};
const REFUSED = { 'oauthGrants.revoke': 'OAuth grant not found. Perhaps it was already revoked?' };

function methods(thing, path, found) {
  for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(thing))) {
    const full = path + name;
    if (name !== 'constructor' && !LATER.test(full) && !OWN.test(full)) found[full] = thing[name].bind(thing);
  }
  for (const [name, inner] of Object.entries(thing)) {
    if (inner && typeof inner === 'object' && inner !== resend && !(inner instanceof Headers)) {
      methods(inner, `${path}${name}.`, found);
    }
  }
  return found;
}

const found = {};
for (const [name, inner] of Object.entries(resend)) {
  if (inner && typeof inner === 'object' && !(inner instanceof Headers)) methods(inner, `${name}.`, found);
}
const wrong = {};
for (const [name, call] of Object.entries(found)) {
  if (!(name in ARGUMENTS)) {
    wrong[name] = 'forgotten';
    continue;
  }
  try {
    const told = await call(...(await ARGUMENTS[name]()));
    const refused = told && told.error ? told.error.message : undefined;
    if (refused !== REFUSED[name]) wrong[name] = told && told.error ? JSON.stringify(told.error) : 'not refused';
  } catch (error) {
    wrong[name] = String(error);
  }
}
console.log(JSON.stringify({ ran: Object.keys(found).sort(), wrong }));
