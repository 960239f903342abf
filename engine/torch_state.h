/* torch_state.h - read a state dict that torch.save wrote (.pth), as torch.hub leaves it in its cache.
 * The file is a zip archive: a pickle that describes the tensors, and their storages. The pickle is interpreted by a
 * strict reader that knows dictionaries of dense tensors and nothing else; no file can make it run or build anything.
 * The tensors are views into the mapped file, as of a safetensors file. */
#ifndef TRELLIS_TORCH_STATE_H
#define TRELLIS_TORCH_STATE_H

#include "safetensors.h"

struct safetensors *torch_state_open(const char *path, struct error *err);
/* From memory (tests, fuzzers): bytes are borrowed until close. */
struct safetensors *torch_state_from_memory(const void *bytes, size_t size, const char *name, struct error *err);

#endif
