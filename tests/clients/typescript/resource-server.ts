// A resource server that somebody else wrote (oauth4webapi) judges access tokens of a node that signs with RS256. It is told
// the issuer's URL, its own audience, and an API key by which it asks about tokens; the rest it finds.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import * as oauth from "oauth4webapi";

const dev = JSON.parse(readFileSync(process.env.DEV_JSON!, "utf8"));
const plain = { [oauth.allowInsecureRequests]: true };

/** A port that nobody listens on. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const address = server.address();
  await new Promise((closed) => server.close(closed));
  assert(address && typeof address === "object");
  return address.port;
}

/** Starts a node with a key of its own beside the one of `fulexo dev`, and waits until it answers. */
async function start(issuer: string): Promise<ChildProcess> {
  const { privateKey } = generateKeyPairSync("rsa", {
    modulusLength: 2048,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  const port = new URL(issuer).port;
  // The database says which key signs. A node that does not have that one signs with its own.
  const { JWT_SECRET: _ofDev, ...others } = dev.env;
  const env = { ...others, JWT_PRIVATE_KEY: privateKey, FULEXO_PORT: port, FULEXO_PUBLIC_URL: issuer, FULEXO_LOG: "warn" };
  const node = spawn("target/debug/fulexo", ["serve"], { env, stdio: ["ignore", "ignore", "inherit"] });
  for (let tries = 0; tries < 300; tries++) {
    assert.equal(node.exitCode, null, "the node has stopped");
    const answer = await fetch(`${issuer}/health/ready`).catch(() => undefined);
    if (answer?.ok) return node;
    await new Promise((passed) => setTimeout(passed, 100));
  }
  throw new Error("the node does not answer");
}

async function post(url: string, body: unknown, token?: string): Promise<any> {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  assert(answer.ok, `${url}: ${answer.status} ${await answer.clone().text()}`);
  return answer.status === 204 ? undefined : answer.json();
}

async function judged(issuer: string): Promise<void> {
  // From the issuer alone (RFC 8414, section 3).
  const discovery = await oauth.discoveryRequest(new URL(issuer), { algorithm: "oauth2", ...plain });
  const server = await oauth.processDiscoveryResponse(new URL(issuer), discovery);

  const email = `rs-${randomUUID()}@example.com`;
  const password = "correct-Horse7battery";
  await post(`${issuer}/v1/auth/register`, { email, password });
  const ann = await post(`${issuer}/v1/auth/login`, { email, password });
  const call = (token: string) =>
    new Request("https://resource.example/things", { headers: { Authorization: `Bearer ${token}` } });
  const claims = await oauth.validateJwtAccessToken(server, call(ann.access_token), "fulexo", plain);
  assert.equal(claims.sid, ann.session_id);
  await assert.rejects(oauth.validateJwtAccessToken(server, call(ann.access_token), "somebody else", plain));
  const [head, body, signature] = ann.access_token.split(".");
  const altered = Buffer.from(JSON.stringify({ ...claims, sub: randomUUID() })).toString("base64url");
  assert.notEqual(altered, body);
  await assert.rejects(oauth.validateJwtAccessToken(server, call(`${head}.${altered}.${signature}`), "fulexo", plain));

  // The resource server asks the service for what only the service knows (RFC 7662).
  const admin = await post(`${issuer}/v1/auth/login`, dev.accounts.admin);
  const expires_at = new Date(Date.now() + 3_600_000).toISOString();
  const key = { name: "resource-server", permissions: ["tokens.introspect"], expires_at };
  const made = await post(`${issuer}/v1/api-keys`, key, admin.access_token);
  const client = { client_id: made.api_key_id };
  const introspect = async (secret: string) => {
    const proof = oauth.ClientSecretBasic(secret);
    const answer = await oauth.introspectionRequest(server, client, proof, ann.access_token, plain);
    return oauth.processIntrospectionResponse(server, client, answer);
  };
  const told = await introspect(made.secret);
  assert(told.active && told.sub === claims.sub && told.client_id === claims.client_id, JSON.stringify(told));
  await assert.rejects(introspect("another-secret"));
  await post(`${issuer}/v1/auth/logout`, {}, ann.access_token);
  assert.deepEqual(await introspect(made.secret), { active: false });
  console.log("oauth4webapi: metadata, keys, access tokens, introspection by the issuer's URL alone");
}

const issuer = `http://127.0.0.1:${await freePort()}`;
const node = await start(issuer);
try {
  await judged(issuer);
} finally {
  node.kill("SIGTERM");
}
