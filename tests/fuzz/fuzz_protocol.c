/* fuzz_protocol.c - any bytes as a packet: refused, or a message whose encoding is exactly those bytes. */
#include "protocol.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct message message;
	struct error err = {0};
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	if (size > sizeof bytes)
		return -1;
	if (message_decode(&message, data, size, &err) == MESSAGE_OK) {
		if (message_encode(&message, bytes, &err) != size || memcmp(bytes, data, size) != 0)
			abort();
	} else if (!err.text[0] || strchr(err.text, '\n')) {
		abort();
	}
	return 0;
}
