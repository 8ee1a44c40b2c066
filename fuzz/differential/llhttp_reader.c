/* Reads one message with llhttp and writes down what it saw: records of a tag, a length of four octets
 * (little endian) and the octets. `src/reading.rs` has the tags. */

#include <stdint.h>
#include <string.h>

#include "llhttp.h"

struct notes {
  uint8_t *at, *end;
  int is_full;
  int answers_head;
  int in_trailers;
};

static int note(llhttp_t *parser, uint8_t tag, const char *bytes, size_t size) {
  struct notes *notes = parser->data;
  if (notes->is_full || (size_t)(notes->end - notes->at) < size + 5) {
    notes->is_full = 1;
    return 0;
  }
  *notes->at++ = tag;
  for (int shift = 0; shift < 32; shift += 8) *notes->at++ = (uint8_t)(size >> shift);
  memcpy(notes->at, bytes, size);
  notes->at += size;
  return 0;
}

static int in_trailers(llhttp_t *parser) { return ((struct notes *)parser->data)->in_trailers; }

static int on_method(llhttp_t *p, const char *at, size_t size) { return note(p, 'm', at, size); }
static int on_url(llhttp_t *p, const char *at, size_t size) { return note(p, 't', at, size); }
static int on_status(llhttp_t *p, const char *at, size_t size) { return note(p, 'r', at, size); }
static int on_field(llhttp_t *p, const char *at, size_t size) {
  return note(p, in_trailers(p) ? 'N' : 'n', at, size);
}
static int on_value(llhttp_t *p, const char *at, size_t size) {
  return note(p, in_trailers(p) ? 'F' : 'f', at, size);
}
/* llhttp calls no value callback for an empty one. */
static int on_value_complete(llhttp_t *p) { return note(p, in_trailers(p) ? 'F' : 'f', "", 0); }
static int on_body(llhttp_t *p, const char *at, size_t size) { return note(p, 'b', at, size); }

static int on_headers_complete(llhttp_t *parser) {
  struct notes *notes = parser->data;
  char numbers[3] = {(char)parser->http_minor, (char)(parser->status_code & 0xff),
                     (char)(parser->status_code >> 8)};
  note(parser, 'h', numbers, sizeof numbers);
  notes->in_trailers = 1;
  return notes->answers_head ? 1 : 0;
}

static int on_message_complete(llhttp_t *parser) {
  char keeps = (char)llhttp_should_keep_alive(parser);
  note(parser, 'k', &keeps, 1);
  return HPE_PAUSED;
}

/* Gives the size of the notes, or 0 when there was no room. `*outcome` is 0 for a whole message, 1 for an
 * unfinished one, else what was wrong with it plus 1; `*consumed` the octets of a whole one. */
size_t differential_llhttp(const uint8_t *bytes, size_t size, int is_response, int answers_head,
                           uint8_t *out, size_t room, int *outcome, size_t *consumed) {
  llhttp_settings_t settings;
  llhttp_settings_init(&settings);
  settings.on_method = on_method;
  settings.on_url = on_url;
  settings.on_status = on_status;
  settings.on_header_field = on_field;
  settings.on_header_value = on_value;
  settings.on_header_value_complete = on_value_complete;
  settings.on_headers_complete = on_headers_complete;
  settings.on_body = on_body;
  settings.on_message_complete = on_message_complete;

  struct notes notes = {out, out + room, 0, answers_head, 0};
  llhttp_t parser;
  llhttp_init(&parser, is_response ? HTTP_RESPONSE : HTTP_REQUEST, &settings);
  parser.data = &notes;
  llhttp_errno_t error = llhttp_execute(&parser, (const char *)bytes, size);
  switch (error) {
    case HPE_OK:
      *outcome = 1;
      break;
    case HPE_PAUSED:
    case HPE_PAUSED_UPGRADE:
      *outcome = 0;
      *consumed = (size_t)(llhttp_get_error_pos(&parser) - (const char *)bytes);
      break;
    default:
      *outcome = (int)error + 1;
  }
  return notes.is_full ? 0 : (size_t)(notes.at - out);
}

const char *differential_llhttp_error(int outcome) { return llhttp_errno_name(outcome - 1); }
