// A journey through the API with a client that openapi-typescript has generated: what does not compile, or is not answered
// as the document says, fails.

import assert from "node:assert/strict";
import { createHmac, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const dev = JSON.parse(readFileSync(process.env.DEV_JSON!, "utf8"));
const PASSWORD = "correct-Horse7battery";

const client = (token?: string) =>
  createClient<paths>({ baseUrl: dev.url, ...(token && { headers: { Authorization: `Bearer ${token}` } }) });

/** The code that an authenticator app shows (RFC 6238), now or so many steps of 30 seconds later. */
function code(secret: string, steps = 0): string {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = [...secret].map((letter) => alphabet.indexOf(letter).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g)!.map((octet) => parseInt(octet, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const digest = createHmac("sha1", key).update(counter).digest();
  const number = digest.readUInt32BE(digest[19]! & 15) & 0x7fffffff;
  return (number % 1_000_000).toString().padStart(6, "0");
}

/** The tokens of a login that is over. */
function signedIn(answer: components["schemas"]["LoginResponse"] | undefined): components["schemas"]["TokenResponse"] {
  assert(answer);
  switch (answer.status) {
    case "authenticated":
      return answer;
    case "authenticated_by_cookie":
    case "second_factor_required":
    case "second_factor_enrolment_required":
    case "password_change_required":
      throw new Error(answer.status);
  }
}

const email = `ts-${randomUUID()}@example.com`;
const nobody = client();

const registered = await nobody.POST("/v1/auth/register", { body: { email, password: PASSWORD, display_name: "Ann" } });
assert.equal(registered.data?.email, email);

const wrong = await nobody.POST("/v1/auth/login", { body: { email, password: "wrong" } });
assert.equal(wrong.response.status, 401);
assert.equal(wrong.error?.code, "invalid_credentials");

const first = signedIn((await nobody.POST("/v1/auth/login", { body: { email, password: PASSWORD } })).data);
const ann = client(first.access_token);

const enrolment = await ann.POST("/v1/me/second-factor/totp");
assert(enrolment.data);
const { secret } = enrolment.data;
const confirmed = await ann.POST("/v1/me/second-factor/totp/confirm", { body: { code: code(secret) } });
assert.equal(confirmed.data?.recovery_codes.length, 10);

const challenged = (await nobody.POST("/v1/auth/login", { body: { email, password: PASSWORD } })).data;
assert(challenged?.status === "second_factor_required");
assert(challenged.methods.includes("totp"));
const body = { challenge_token: challenged.challenge_token, code: code(secret, 1) };
const second = signedIn((await nobody.POST("/v1/auth/second-factor", { body })).data);

const refreshed = await nobody.POST("/v1/auth/refresh", { body: { refresh_token: second.refresh_token } });
assert(refreshed.data?.status === "authenticated");

const sessions = await ann.GET("/v1/me/sessions", { params: { query: { limit: 10 } } });
const other = sessions.data?.items.find((session) => session.session_id === second.session_id);
assert(other);
const ended = await ann.DELETE("/v1/me/sessions/{session_id}", { params: { path: { session_id: other.session_id } } });
assert.equal(ended.response.status, 204);
const refused = await client(refreshed.data.access_token).GET("/v1/auth/session");
assert.equal(refused.error?.code, "invalid_token");

const admin = client(signedIn((await nobody.POST("/v1/auth/login", { body: dev.accounts.admin })).data).access_token);
const policy = (await admin.GET("/v1/policy")).data;
assert(policy);
const { version, ...figures } = policy;
const proposed = { ...figures, lockout: { ...figures.lockout, threshold: 6 }, reason: "a client's journey" };
const changed = await admin.PUT("/v1/policy", { body: proposed });
assert.equal(changed.data?.lockout.threshold, 6, JSON.stringify(changed.error));
const accounts = await admin.GET("/v1/accounts", { params: { query: { limit: 1 } } });
assert.equal(accounts.data?.items.length, 1);
console.log("TypeScript: register, log in, second factor, refresh, list, revoke, change the policy");
