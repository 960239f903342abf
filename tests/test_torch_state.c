/* test_torch_state.c - state dicts as torch.save writes them, and pickles that are something else. */
#include "torch_state.h"

#include "torch_file.h"

#include <criterion/criterion.h>
#include <unistd.h>

Test(torch_state, keeps_the_tensors)
{
	struct error err = {""};
	const float a[] = {1, 2, 3, 4, 5, 6};
	const uint16_t b[] = {0x3c00};
	char path[] = "/tmp/test_torch_state.XXXXXX";
	close(mkstemp(path));
	struct safetensors_writer *w = safetensors_writer_create();
	safetensors_writer_add(w, "a", ST_F32, 2, (int64_t[]){2, 3}, a);
	safetensors_writer_add(w, "b", ST_F16, 0, NULL, b);
	cr_assert(safetensors_writer_save(w, path, &err), "%s", err.text);
	safetensors_writer_destroy(w);
	struct safetensors *f = safetensors_open(path, &err);
	unlink(path);
	struct torch_file *z = torch_file_create(f);
	safetensors_close(f);

	f = torch_state_from_memory(z->bytes, z->size, "x.pth", &err);
	cr_assert(f, "%s", err.text);
	cr_assert_eq(safetensors_count(f), 2);
	const struct st_tensor *t = safetensors_find(f, "a");
	cr_expect(t->ndim == 2 && t->dim[0] == 2 && t->dim[1] == 3 && memcmp(t->data, a, sizeof a) == 0);
	t = safetensors_find(f, "b");
	cr_expect(t->ndim == 0 && t->dtype == ST_F16 && t->count == 1);
	safetensors_close(f);

	/* Anything else that a pickle could do is refused. */
	uint8_t *pickle = memmem(z->bytes, z->size, "collections\nOrderedDict", 23);
	memcpy(pickle, "subprocess0\nPopen000000", 23);
	cr_expect(!torch_state_from_memory(z->bytes, z->size, "x.pth", &err));
	cr_expect(strstr(err.text, "x.pth: not a plain state dict of tensors: it refers to a class or function"), "%s",
		err.text);
	for (size_t cut = 1; cut < z->size; cut++) {
		f = torch_state_from_memory(z->bytes, z->size - cut, "x.pth", &err);
		cr_expect(!f, "accepted without the last %zu bytes", cut);
		safetensors_close(f);
	}
	free(z);
}

static void expect_pickle_refused(const char *pickle, size_t size, const char *wanted)
{
	struct error err = {""};
	struct torch_file *z = calloc(1, sizeof *z);
	torch_add_entry(z, "archive/data.pkl", pickle, size);
	torch_add_entry(z, "archive/data/0", "12345678", 8);
	torch_finish(z);
	struct safetensors *f = torch_state_from_memory(z->bytes, z->size, "x.pth", &err);
	cr_expect(!f && strstr(err.text, wanted), "wanted \"%s\", got \"%s\"", wanted, err.text);
	safetensors_close(f);
	free(z);
}

/* Each would be a state dict of one tensor but for one thing. */
Test(torch_state, refuses_what_is_not_a_dense_tensor)
{
#define STORAGE(key, count) "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" key "X\3\0\0\0cpuK" count "tQ"
#define TENSOR(storage, layout) "ctorch._utils\n_rebuild_tensor_v2\n(" storage layout "\x89NtR"
#define DICT(items) "\x80\2}(X\1\0\0\0w" items "u."
#define REFUSED(pickle, wanted) expect_pickle_refused(pickle, sizeof(pickle) - 1, wanted)
	REFUSED("\x80\2)Q.", "a storage is not described");
	REFUSED("\x80\2ctorch._utils\n_rebuild_tensor_v2\n)R.", "a tensor is not described");
	REFUSED("\x80\2}.", "it has no tensors");
	REFUSED("\x80\2K\1.", "the pickle is not a dictionary");
	REFUSED("\x80\4}.", "not a pickle of protocol 2");
	REFUSED("\x80\2", "the pickle is cut off");
	REFUSED("\x80\2t.", "the pickle's stack has no mark");
	REFUSED("\x80\2\x86.", "the pickle's stack runs out");
	REFUSED("\x80\2h\7.", "the pickle's memo lacks an entry");
	REFUSED("\x80\2}r\377\377\377\177.", "the pickle's memo is too large");
	REFUSED("\x80\2\x8a\t123456789.", "a number of more than 64 bits");
	REFUSED("\x80\2ccollections\nOrderedDict\n(K\1tR.", "it calls something other");
	REFUSED(DICT("K\1"), "an entry is not a named tensor");
	REFUSED(DICT(TENSOR(STORAGE("1", "\2"), "K\0K\2\x85K\1\x85")), "a storage is missing from the archive");
	REFUSED(DICT(TENSOR(STORAGE("0", "\3"), "K\0K\2\x85K\1\x85")), "a storage is shorter than described");
	REFUSED(DICT(TENSOR(STORAGE("0", "\2"), "K\1K\2\x85K\1\x85")), "a tensor is not dense, or lies outside");
	REFUSED(DICT(TENSOR(STORAGE("0", "\2"), "K\0K\2\x85K\0\x85")), "a tensor is not dense, or lies outside");
	REFUSED(DICT(TENSOR(STORAGE("0", "\2"), "J\377\377\377\377K\1\x85K\1\x85")), "a tensor is not dense, or lies");
	REFUSED(DICT(TENSOR(STORAGE("0", "\2"), "K\0K\2\x85)")), "a tensor is not described");
#undef REFUSED
#undef DICT
#undef TENSOR
#undef STORAGE
}
