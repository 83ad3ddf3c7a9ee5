// Verifies posts with the libraries that applications use. In (stdin): {posts: [{secrets, headers, body}], vectors}.
// Out: what each library said of each post, of the same post changed, and what it signs the vectors with.
import { readFileSync } from 'node:fs';
import { Resend } from 'resend';
import { Webhook as Standard } from 'standardwebhooks';
import { Webhook as Svix } from 'svix';

const given = JSON.parse(readFileSync(0, 'utf8'));
const libraries = {
  svix: (secret, headers, body) => new Svix(secret).verify(body, headers),
  standardwebhooks: (secret, headers, body) => new Standard(secret).verify(body, headers),
  resend: (secret, headers, body) =>
    new Resend('re_x').webhooks.verify({
      payload: body,
      headers: {
        id: headers['svix-id'],
        timestamp: headers['svix-timestamp'],
        signature: headers['svix-signature'],
      },
      webhookSecret: secret,
    }),
};

function says(call, body) {
  try {
    call(); // what it gives back differs: svix gives nothing
    return JSON.parse(body).type;
  } catch (error) {
    return `refused: ${error.message}`;
  }
}

const told = {};
for (const [name, verify] of Object.entries(libraries)) {
  told[name] = given.posts.map(({ secrets, headers, body }) => ({
    good: secrets.map((secret) => says(() => verify(secret, headers, body), body)),
    changed: says(() => verify(secrets[0], headers, body.replace('email', 'e-mail')), body),
  }));
}
const signed = given.vectors.map(({ secret, id, timestamp, payload }) =>
  [Svix, Standard].map((Library) => new Library(secret).sign(id, new Date(timestamp * 1000), payload)),
);
console.log(JSON.stringify({ told, signed }));
