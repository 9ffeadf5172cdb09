// Lets in who knows the token.

import { log } from "sluicegate:plugin/logging@0.2.0";

const utf8 = new TextEncoder();

const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  properties: {
    token: { type: "string", minLength: 1, writeOnly: true, description: "What a client must send as X-Token." },
  },
  required: ["token"],
  additionalProperties: false,
};

let token;

export function describe() {
  return {
    name: "token-gate",
    version: "0.1.0",
    hooks: { request: true },
    configSchema: JSON.stringify(schema),
    optional: [],
  };
}

// The proxy has checked the config against the schema.
export function configure(config) {
  token = utf8.encode(JSON.parse(config).token);
  return { request: true };
}

export function onRequest(req) {
  const given = req.header("x-token");
  if (given === undefined || !same(given, token)) {
    log("info", "no token, or a wrong one", []);
    return { tag: "respond", val: { status: 401, headers: [], body: utf8.encode("a token, please\n") } };
  }
  req.setHeader("x-filtered-by", utf8.encode("javascript"));
  return { tag: "continue" };
}

export function onResponse() {
  return { tag: "continue" };
}

// Takes as long wherever the two differ.
function same(a, b) {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a[i] ^ b[i % b.length];
  return difference === 0;
}
