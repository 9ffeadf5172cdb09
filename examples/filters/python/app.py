"""Lets in who knows the token."""

import hmac
import json

from wit_world.imports import about, http, logging

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "token": {
            "type": "string",
            "minLength": 1,
            "writeOnly": True,
            "description": "What a client must send as X-Token.",
        },
    },
    "required": ["token"],
    "additionalProperties": False,
}


class WitWorld:
    token = b""

    def describe(self) -> about.Description:
        schema = json.dumps(SCHEMA)
        return about.Description("token-gate", "0.1.0", about.Hooks.REQUEST, schema, [])

    def configure(self, config: str) -> about.Hooks:
        # The proxy has checked the config against the schema.
        WitWorld.token = json.loads(config)["token"].encode()
        return about.Hooks.REQUEST

    def on_request(self, req: http.Request) -> http.Verdict:
        given = req.header("x-token")
        if given is None or not hmac.compare_digest(given, self.token):
            logging.log(logging.Level.INFO, "no token, or a wrong one", [])
            return http.Verdict_Respond(http.Reply(401, [], b"a token, please\n"))
        req.set_header("x-filtered-by", b"python")
        return http.Verdict_Continue()

    def on_response(self, res: http.Response) -> http.Verdict:
        return http.Verdict_Continue()
