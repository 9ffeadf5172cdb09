// Lets in who knows the token.

#include <string.h>

#include "filter.h"

typedef sluicegate_plugin_http_edit_error_t edit_error_t;

static const char schema[] =
    "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"type\":\"object\","
    "\"properties\":{\"token\":{\"type\":\"string\",\"minLength\":1,\"writeOnly\":true,"
    "\"description\":\"What a client must send as X-Token.\"}},"
    "\"required\":[\"token\"],\"additionalProperties\":false}";

static filter_string_t token;

void exports_filter_describe(filter_description_t *ret) {
  filter_string_dup(&ret->name, "token-gate");
  filter_string_dup(&ret->version, "0.1.0");
  ret->hooks = SLUICEGATE_PLUGIN_ABOUT_HOOKS_REQUEST;
  ret->config_schema.is_some = true;
  filter_string_dup(&ret->config_schema.val, schema);
  ret->optional.ptr = NULL;
  ret->optional.len = 0;
}

// Finds the value in `{"token":"value"}`: the proxy has checked the config against the schema, and writes
// it without blanks. False where the value is spelled with escapes, which this reader does not know.
static bool read_token(const filter_string_t *config, filter_string_t *value) {
  static const char before[] = "{\"token\":\"", after[] = "\"}";
  const size_t head = sizeof before - 1, tail = sizeof after - 1;
  const char *text = (const char *)config->ptr;
  if (config->len < head + tail || memcmp(text, before, head) != 0 ||
      memcmp(text + config->len - tail, after, tail) != 0)
    return false;
  const size_t len = config->len - head - tail;
  if (memchr(text + head, '\\', len) != NULL)
    return false;
  filter_string_dup_n(value, text + head, len);
  return true;
}

bool exports_filter_configure(filter_string_t *config, filter_hooks_t *ret, filter_config_error_t *err) {
  const bool read = read_token(config, &token);
  filter_string_free(config);
  if (!read) {
    filter_string_dup(&err->pointer, "/token");
    filter_string_dup(&err->message, "must not need escapes in JSON");
    return false;
  }
  *ret = SLUICEGATE_PLUGIN_ABOUT_HOOKS_REQUEST;
  return true;
}

// Takes as long wherever the two differ.
static bool same(const uint8_t *a, const uint8_t *b, size_t len) {
  uint8_t difference = 0;
  for (size_t i = 0; i < len; i++)
    difference |= a[i] ^ b[i];
  return difference == 0;
}

static bool knows_token(filter_borrow_request_t req) {
  filter_string_t name;
  filter_list_u8_t given;
  filter_string_set(&name, "x-token");
  if (!sluicegate_plugin_http_method_request_header(req, &name, &given))
    return false;
  const bool right = given.len == token.len && same(given.ptr, token.ptr, token.len);
  filter_list_u8_free(&given);
  return right;
}

void exports_filter_on_request(filter_borrow_request_t req, filter_verdict_t *ret) {
  filter_string_t text;
  if (!knows_token(req)) {
    filter_list_tuple2_string_string_t no_fields = {0};
    filter_string_set(&text, "no token, or a wrong one");
    sluicegate_plugin_logging_log(SLUICEGATE_PLUGIN_LOGGING_LEVEL_INFO, &text, &no_fields);
    filter_string_dup(&text, "a token, please\n");
    ret->tag = SLUICEGATE_PLUGIN_HTTP_VERDICT_RESPOND;
    ret->val.respond = (sluicegate_plugin_http_reply_t){.status = 401, .body = {text.ptr, text.len}};
  } else {
    edit_error_t error;
    filter_string_t name;
    filter_string_set(&name, "x-filtered-by");
    filter_string_set(&text, "c");
    filter_list_u8_t value = {text.ptr, text.len};
    // The name and the value are good, and there is room for one more field in a head.
    sluicegate_plugin_http_method_request_set_header(req, &name, &value, &error);
    ret->tag = SLUICEGATE_PLUGIN_HTTP_VERDICT_CONTINUE;
  }
  sluicegate_plugin_http_request_drop_borrow(req);
}

void exports_filter_on_response(filter_borrow_response_t res, filter_verdict_t *ret) {
  sluicegate_plugin_http_response_drop_borrow(res);
  ret->tag = SLUICEGATE_PLUGIN_HTTP_VERDICT_CONTINUE;
}
