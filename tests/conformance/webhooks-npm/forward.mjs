// Forwards a received email in both ways that the client has, and answers it. In: its id. Out: the ids of what was sent.
import { Resend } from 'resend';

const resend = new Resend(process.env.RESEND_API_KEY);
const emailId = process.argv[2];
const from = 'Support <support@postroom.test>';

async function ok(call) {
  const { data, error } = await call;
  if (error) throw new Error(JSON.stringify(error));
  return data;
}

const email = await ok(resend.emails.receiving.get(emailId));
const asCid = await ok(resend.emails.receiving.get(emailId, { html_format: 'cid' }));
const passed = await ok(resend.emails.receiving.forward({ emailId, to: 'passed@example.com', from }));
const wrapped = await ok(
  resend.emails.receiving.forward({ emailId, to: 'wrapped@example.com', from, passthrough: false, text: 'see below' }),
);
const replied = await ok(
  resend.emails.send({
    from,
    to: email.reply_to.length ? email.reply_to : [email.from],
    subject: email.subject.startsWith('Re:') ? email.subject : `Re: ${email.subject}`,
    text: 'thank you',
    headers: { 'In-Reply-To': email.message_id, References: email.message_id },
  }),
);
console.log(JSON.stringify({ email, asCid: asCid.html, passed, wrapped, replied }));
