// What an application does with `resend` from npm. Prints what it was told, as JSON.
import { Resend } from 'resend';

const resend = new Resend(process.env.RESEND_API_KEY);

async function ok(call) {
  const { data, error } = await call;
  if (error) throw new Error(JSON.stringify(error));
  return data;
}

const params = {
  from: 'Acme <hello@postroom.test>',
  to: ['node-one@example.com'],
  subject: 'Grüße from node',
  html: '<p>Hello</p>',
  headers: { 'X-Entity-Ref-ID': '42' },
  tags: [{ name: 'category', value: 'test' }],
  attachments: [{ filename: 'note.txt', content: Buffer.from('hi there') }],
};
const sent = await ok(resend.emails.send(params, { idempotencyKey: 'node/1' }));
const again = await ok(resend.emails.send(params, { idempotencyKey: 'node/1' }));
const batch = await ok(
  resend.batch.send(
    [1, 2].map((n) => ({ from: 'hello@postroom.test', to: `node-batch${n}@example.com`, subject: 'b', text: 'b' })),
  ),
);
const got = await ok(resend.emails.get(sent.id));
const listed = await ok(resend.emails.list({ limit: 50 }));
const refused = await resend.emails.send({ ...params, to: 'nobody' });
const domain = await ok(resend.domains.create({ name: 'node.example' }));
await ok(resend.domains.verify(domain.id));
await ok(resend.domains.get(domain.id));
await ok(resend.domains.list());
await ok(resend.domains.remove(domain.id));
const key = await ok(resend.apiKeys.create({ name: 'node' }));
await ok(resend.apiKeys.list());
const deleted = await ok(resend.apiKeys.remove(key.id));
console.log(
  JSON.stringify({
    sent: sent.id,
    again: again.id,
    batch: batch.data.map((each) => each.id),
    got: { id: got.id, to: got.to, message_id: got.message_id },
    listed: listed.data.map((each) => each.id),
    refused: refused.error && refused.error.message,
    domain: { name: domain.name, records: domain.records },
    key_deleted: deleted.deleted,
  }),
);
