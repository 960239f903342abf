/* fuzz_protocol.c - any bytes as a packet: refused, or a message whose encoding is exactly those bytes. */
#include "protocol.h"
#include "seeds.h"

#include <stdlib.h>
#include <string.h>

/* One of each type. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const struct message examples[] = {
		{.type = MESSAGE_HELLO, .hello = {"1.0"}},
		{.type = MESSAGE_STATUS, .status = {.percent = 5, .device = "cpu", .dtype = "f32", .model = "m"}},
		{.type = MESSAGE_PROGRESS, .progress = {.id = 1, .stage = "s", .step = 1, .steps = 2, .fraction = 0.5}},
		{.type = MESSAGE_RESULT, .result = {.id = 1, .sizes = {9}, .faces = 4, .cutout = "alpha"}},
		{.type = MESSAGE_FAILURE, .failure = {.id = 1, .kind = JOB_STORAGE, .text = "full"}},
		{.type = MESSAGE_JOB,
			.job = {.id = 1, .name = "in/a.png", .options = {.simplify = 0.5f, .outputs = 33}}},
		{.type = MESSAGE_CANCEL, .cancel = {1}},
		{.type = MESSAGE_FREE, .free = {1}},
	};
	for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
		uint8_t bytes[PROTOCOL_MAX_BYTES];
		char name[16];
		size_t size = message_encode(&examples[i], bytes, NULL);
		if (!size)
			abort();
		snprintf(name, sizeof name, "message%zu", i);
		seeds_write(seeds_corpus(*argc, *argv), name, bytes, size);
	}
	return 0;
}

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
