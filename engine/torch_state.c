/* torch_state.c - read a state dict that torch.save wrote: tensors of an official DINOv2 download.
 * Used by encoder_torch.c. Source: Python's pickletools (protocol 2) for the opcodes, torch.serialization for the
 * archive's layout: NAME/data.pkl, NAME/data/KEY; a storage is the persistent id ("storage", type, KEY, location,
 * elements) and a tensor is _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks). */
#include "torch_state.h"

#include "tensor_file.h"
#include "text.h"
#include "zip_file.h"

#include <stdlib.h>
#include <string.h>

/* DINOv2-giant's description has 150 KB. Memory is at most some 100 bytes for each byte of it. */
#define MAX_PICKLE_BYTES ((uint64_t)1 << 20)
#define MAX_MEMO 131072

enum kind { MARK, OPAQUE, INTEGER, TEXT, GLOBAL, TUPLE, DICT, STORAGE, TENSOR };
enum global { ORDERED_DICT, REBUILD_TENSOR, FLOAT_STORAGE, HALF_STORAGE, BFLOAT16_STORAGE };

static const struct {
	const char *module, *name;
} globals[] = {
	[ORDERED_DICT] = {"collections", "OrderedDict"},
	[REBUILD_TENSOR] = {"torch._utils", "_rebuild_tensor_v2"},
	[FLOAT_STORAGE] = {"torch", "FloatStorage"},
	[HALF_STORAGE] = {"torch", "HalfStorage"},
	[BFLOAT16_STORAGE] = {"torch", "BFloat16Storage"},
};

struct text {
	const char *at;
	size_t size;
};

struct value {
	enum kind kind;
	union {
		int64_t integer;
		struct text text;
		enum global global;
		struct {
			size_t first, n;
		} tuple;     /* in cells */
		size_t dict; /* number of the dictionary */
		struct {
			enum st_dtype dtype;
			const uint8_t *data;
			int64_t count;
		} storage;
		size_t tensor; /* index in tensors */
	};
};

struct tensor_value {
	enum st_dtype dtype;
	int ndim;
	int64_t dim[ST_MAX_DIMS];
	const uint8_t *data;
};

struct item {
	size_t dict;
	struct value key, value;
};

/* A growing array of values; the three of the reader share their code. */
struct values {
	struct value *at;
	size_t count, capacity;
};

struct reader {
	const struct safetensors *file;
	const struct zip_file *zip;
	const char *archive; /* "NAME/", the prefix of every entry */
	const uint8_t *p, *end;
	struct values stack, cells, memo; /* memo: by number, MARK where nothing was put */
	struct item *items;		  /* of all dictionaries, in order */
	size_t n_items, items_capacity;
	struct tensor_value *tensors;
	size_t n_tensors, tensors_capacity;
	size_t n_dicts;
	struct error *err;
};

static bool refuse(struct reader *r, const char *what)
{
	return error_set(r->err, "%s: not a plain state dict of tensors: %s", r->file->path, what);
}

/* Room for one more element; the arrays never shrink. */
static void *grow(void *array, size_t count, size_t *capacity, size_t element_size)
{
	if (count < *capacity)
		return array;
	size_t wanted = *capacity ? 2 * *capacity : 64;
	void *larger = realloc(array, wanted * element_size);
	if (larger)
		*capacity = wanted;
	return larger;
}

static bool append(struct reader *r, struct values *list, struct value v)
{
	struct value *at = grow(list->at, list->count, &list->capacity, sizeof v);
	if (!at)
		return error_set(r->err, "%s: out of memory", r->file->path);
	list->at = at;
	list->at[list->count++] = v;
	return true;
}

static bool push(struct reader *r, struct value v)
{
	return append(r, &r->stack, v);
}

static bool pop(struct reader *r, struct value *v)
{
	if (r->stack.count == 0 || r->stack.at[r->stack.count - 1].kind == MARK)
		return refuse(r, "the pickle's stack runs out");
	*v = r->stack.at[--r->stack.count];
	return true;
}

/* Position of the topmost mark. */
static bool find_mark(struct reader *r, size_t *mark)
{
	for (size_t i = r->stack.count; i-- > 0;) {
		if (r->stack.at[i].kind == MARK) {
			*mark = i;
			return true;
		}
	}
	return refuse(r, "the pickle's stack has no mark");
}

static bool take(struct reader *r, size_t n, const uint8_t **bytes)
{
	if ((size_t)(r->end - r->p) < n)
		return refuse(r, "the pickle is cut off");
	*bytes = r->p;
	r->p += n;
	return true;
}

/* n bytes, little-endian. */
static bool take_number(struct reader *r, size_t n, uint64_t *number)
{
	const uint8_t *bytes;
	if (!take(r, n, &bytes))
		return false;
	*number = 0;
	while (n--)
		*number = *number << 8 | bytes[n];
	return true;
}

static bool take_line(struct reader *r, struct text *line)
{
	const uint8_t *end = memchr(r->p, '\n', (size_t)(r->end - r->p));
	if (!end)
		return refuse(r, "the pickle is cut off");
	*line = (struct text){(const char *)r->p, (size_t)(end - r->p)};
	r->p = end + 1;
	return true;
}

static bool equals(struct text t, const char *word)
{
	return t.size == strlen(word) && memcmp(t.at, word, t.size) == 0;
}

static bool read_global(struct reader *r)
{
	struct text module, name;
	if (!take_line(r, &module) || !take_line(r, &name))
		return false;
	for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++) {
		if (equals(module, globals[i].module) && equals(name, globals[i].name))
			return push(r, (struct value){.kind = GLOBAL, .global = (enum global)i});
	}
	return refuse(r, "it refers to a class or function other than dense float tensors");
}

/* The top n values become a tuple. */
static bool make_tuple(struct reader *r, size_t n)
{
	struct value tuple = {.kind = TUPLE, .tuple = {r->cells.count, n}};
	for (size_t i = r->stack.count - n; i < r->stack.count; i++) {
		if (r->stack.at[i].kind == MARK)
			return refuse(r, "a mark within a tuple");
		if (!append(r, &r->cells, r->stack.at[i]))
			return false;
	}
	r->stack.count -= n;
	return push(r, tuple);
}

static bool make_marked_tuple(struct reader *r)
{
	size_t mark;
	if (!find_mark(r, &mark))
		return false;
	size_t n = r->stack.count - mark - 1;
	if (!make_tuple(r, n))
		return false;
	r->stack.at[mark] = r->stack.at[mark + 1];
	r->stack.count--;
	return true;
}

static bool make_dict(struct reader *r)
{
	return push(r, (struct value){.kind = DICT, .dict = r->n_dicts++});
}

static bool add_item(struct reader *r, size_t dict, struct value key, struct value value)
{
	struct item *items = grow(r->items, r->n_items, &r->items_capacity, sizeof *items);
	if (!items)
		return error_set(r->err, "%s: out of memory", r->file->path);
	r->items = items;
	r->items[r->n_items++] = (struct item){dict, key, value};
	return true;
}

/* dict, mark, key, value, key, value...: all items at once. */
static bool set_items(struct reader *r)
{
	size_t mark;
	if (!find_mark(r, &mark))
		return false;
	if (mark == 0 || r->stack.at[mark - 1].kind != DICT || (r->stack.count - mark - 1) % 2 != 0)
		return refuse(r, "items for something that is not a dictionary");
	for (size_t i = mark + 1; i < r->stack.count; i += 2) {
		if (!add_item(r, r->stack.at[mark - 1].dict, r->stack.at[i], r->stack.at[i + 1]))
			return false;
	}
	r->stack.count = mark;
	return true;
}

static bool set_item(struct reader *r)
{
	struct value key, value;
	if (!pop(r, &value) || !pop(r, &key))
		return false;
	if (r->stack.count == 0 || r->stack.at[r->stack.count - 1].kind != DICT)
		return refuse(r, "an item for something that is not a dictionary");
	return add_item(r, r->stack.at[r->stack.count - 1].dict, key, value);
}

/* ("storage", type, key, location, elements) */
static bool load_storage(struct reader *r)
{
	struct value id;
	if (!pop(r, &id))
		return false;
	const struct value *cell = id.kind == TUPLE && id.tuple.n == 5 ? r->cells.at + id.tuple.first : NULL;
	if (!cell || cell[0].kind != TEXT || !equals(cell[0].text, "storage") || cell[1].kind != GLOBAL ||
		cell[1].global < FLOAT_STORAGE || cell[2].kind != TEXT || cell[2].text.size > 64 ||
		cell[4].kind != INTEGER)
		return refuse(r, "a storage is not described as torch.save does");
	static const enum st_dtype dtypes[] = {
		[FLOAT_STORAGE] = ST_F32, [HALF_STORAGE] = ST_F16, [BFLOAT16_STORAGE] = ST_BF16};
	struct value storage = {
		.kind = STORAGE, .storage = {.dtype = dtypes[cell[1].global], .count = cell[4].integer}};
	char *name = text_format("%sdata/%.*s", r->archive, (int)cell[2].text.size, cell[2].text.at);
	const struct zip_entry *entry = name ? zip_file_find(r->zip, name) : NULL;
	free(name);
	if (!entry)
		return refuse(r, "a storage is missing from the archive");
	if (storage.storage.count < 0 ||
		(uint64_t)storage.storage.count > entry->size / st_dtype_size(storage.storage.dtype))
		return refuse(r, "a storage is shorter than described");
	storage.storage.data = entry->data;
	return push(r, storage);
}

/* Sizes and strides of a dense row-major tensor that lies within count elements from offset on. */
static bool read_layout(
	struct tensor_value *t, const struct value *size, const struct value *stride, int64_t offset, int64_t count)
{
	int64_t step = 1;
	for (int i = t->ndim; i-- > 0;) {
		if (size[i].kind != INTEGER || stride[i].kind != INTEGER || size[i].integer < 0)
			return false;
		t->dim[i] = size[i].integer;
		if ((t->dim[i] > 1 && stride[i].integer != step) || __builtin_mul_overflow(step, t->dim[i], &step))
			return false;
	}
	return offset >= 0 && offset <= count && step <= count - offset;
}

/* (storage, offset, size, stride, requires_grad, hooks) */
static bool rebuild_tensor(struct reader *r, struct value args)
{
	const struct value *cell = args.tuple.n >= 6 ? r->cells.at + args.tuple.first : NULL;
	if (!cell || cell[0].kind != STORAGE || cell[1].kind != INTEGER || cell[2].kind != TUPLE ||
		cell[3].kind != TUPLE || cell[2].tuple.n != cell[3].tuple.n || cell[2].tuple.n > ST_MAX_DIMS)
		return refuse(r, "a tensor is not described as torch.save does");
	struct tensor_value t = {.dtype = cell[0].storage.dtype, .ndim = (int)cell[2].tuple.n};
	if (!read_layout(&t, r->cells.at + cell[2].tuple.first, r->cells.at + cell[3].tuple.first, cell[1].integer,
		    cell[0].storage.count))
		return refuse(r, "a tensor is not dense, or lies outside its storage");
	t.data = cell[0].storage.data + (size_t)cell[1].integer * st_dtype_size(t.dtype);
	struct tensor_value *tensors = grow(r->tensors, r->n_tensors, &r->tensors_capacity, sizeof *tensors);
	if (!tensors)
		return error_set(r->err, "%s: out of memory", r->file->path);
	r->tensors = tensors;
	r->tensors[r->n_tensors] = t;
	return push(r, (struct value){.kind = TENSOR, .tensor = r->n_tensors++});
}

static bool reduce(struct reader *r)
{
	struct value args, callable;
	if (!pop(r, &args) || !pop(r, &callable))
		return false;
	if (args.kind == TUPLE && callable.kind == GLOBAL && callable.global == REBUILD_TENSOR)
		return rebuild_tensor(r, args);
	if (args.kind == TUPLE && args.tuple.n == 0 && callable.kind == GLOBAL && callable.global == ORDERED_DICT)
		return make_dict(r);
	return refuse(r, "it calls something other than what makes tensors");
}

/* A state dict's attributes (_metadata) say nothing about its tensors. */
static bool build(struct reader *r)
{
	struct value state;
	if (!pop(r, &state))
		return false;
	return (r->stack.count && r->stack.at[r->stack.count - 1].kind == DICT) || refuse(r, "it sets attributes");
}

static bool put_memo(struct reader *r, size_t index_bytes)
{
	uint64_t index;
	if (!take_number(r, index_bytes, &index))
		return false;
	if (index >= MAX_MEMO || r->stack.count == 0 || r->stack.at[r->stack.count - 1].kind == MARK)
		return refuse(r, "the pickle's memo is too large");
	while (r->memo.count <= index) {
		if (!append(r, &r->memo, (struct value){.kind = MARK}))
			return false;
	}
	r->memo.at[index] = r->stack.at[r->stack.count - 1];
	return true;
}

static bool get_memo(struct reader *r, size_t index_bytes)
{
	uint64_t index;
	if (!take_number(r, index_bytes, &index))
		return false;
	if (index >= r->memo.count || r->memo.at[index].kind == MARK)
		return refuse(r, "the pickle's memo lacks an entry");
	return push(r, r->memo.at[index]);
}

static bool push_integer(struct reader *r, size_t bytes)
{
	uint64_t number;
	if (bytes > 8)
		return refuse(r, "a number of more than 64 bits");
	if (!take_number(r, bytes, &number))
		return false;
	/* BININT1 and BININT2 have no sign. */
	int64_t integer = bytes == 4 ? (int32_t)number : (int64_t)number;
	return push(r, (struct value){.kind = INTEGER, .integer = integer});
}

static bool push_text(struct reader *r)
{
	uint64_t size;
	const uint8_t *bytes;
	if (!take_number(r, 4, &size) || !take(r, (size_t)size, &bytes))
		return false;
	return push(r, (struct value){.kind = TEXT, .text = {(const char *)bytes, (size_t)size}});
}

/* LONG1: a length, then that many bytes in two's complement. */
static bool push_long(struct reader *r)
{
	uint64_t size, number;
	if (!take_number(r, 1, &size))
		return false;
	if (size > 8)
		return refuse(r, "a number of more than 64 bits");
	if (!take_number(r, (size_t)size, &number))
		return false;
	unsigned unused = 64 - 8 * (unsigned)size;
	int64_t integer = size ? (int64_t)(number << unused) >> unused : 0;
	return push(r, (struct value){.kind = INTEGER, .integer = integer});
}

/* One opcode; STOP is the caller's. */
static bool step(struct reader *r, uint8_t opcode)
{
	const uint8_t *skipped;
	switch (opcode) {
	case 0x80: /* PROTO */
		return take(r, 1, &skipped) && (*skipped == 2 || refuse(r, "not a pickle of protocol 2"));
	case '(':
		return push(r, (struct value){.kind = MARK});
	case 'N':  /* None */
	case 0x88: /* True */
	case 0x89: /* False */
		return push(r, (struct value){.kind = OPAQUE});
	case 'G': /* a float */
		return take(r, 8, &skipped) && push(r, (struct value){.kind = OPAQUE});
	case 'K':
		return push_integer(r, 1);
	case 'M':
		return push_integer(r, 2);
	case 'J':
		return push_integer(r, 4);
	case 0x8a:
		return push_long(r);
	case 'X':
		return push_text(r);
	case 'c':
		return read_global(r);
	case ')':
		return make_tuple(r, 0);
	case 0x85:
	case 0x86:
	case 0x87:
		if (r->stack.count < opcode - 0x84u)
			return refuse(r, "the pickle's stack runs out");
		return make_tuple(r, opcode - 0x84u);
	case 't':
		return make_marked_tuple(r);
	case '}':
		return make_dict(r);
	case 's':
		return set_item(r);
	case 'u':
		return set_items(r);
	case 'Q':
		return load_storage(r);
	case 'R':
		return reduce(r);
	case 'b':
		return build(r);
	case 'q':
		return put_memo(r, 1);
	case 'r':
		return put_memo(r, 4);
	case 'h':
		return get_memo(r, 1);
	case 'j':
		return get_memo(r, 4);
	default:
		return refuse(r, "its pickle has an opcode that no state dict needs");
	}
}

/* Run the pickle; *dict is the dictionary that it leaves. */
static bool run(struct reader *r, size_t *dict)
{
	const uint8_t *opcode;
	struct value result;
	for (;;) {
		if (!take(r, 1, &opcode))
			return false;
		if (*opcode == '.')
			break;
		if (!step(r, *opcode))
			return false;
	}
	if (!pop(r, &result))
		return false;
	if (result.kind != DICT)
		return refuse(r, "the pickle is not a dictionary");
	*dict = result.dict;
	return true;
}

static bool add_tensors(struct safetensors *f, struct reader *r, size_t dict)
{
	for (size_t i = 0; i < r->n_items; i++) {
		const struct item *item = &r->items[i];
		char name[256];
		if (item->dict != dict)
			continue;
		if (item->key.kind != TEXT || item->key.text.size >= sizeof name || item->value.kind != TENSOR ||
			memchr(item->key.text.at, '\0', item->key.text.size))
			return refuse(r, "an entry is not a named tensor");
		memcpy(name, item->key.text.at, item->key.text.size);
		name[item->key.text.size] = '\0';
		const struct tensor_value *t = &r->tensors[item->value.tensor];
		struct st_tensor *added = tensor_file_add(f, name, t->dtype, t->ndim, t->dim, r->err);
		if (!added)
			return false;
		added->data = t->data;
	}
	return f->count > 0 || refuse(r, "it has no tensors");
}

/* The entry NAME/data.pkl, and NAME/. */
static const struct zip_entry *find_pickle(const struct zip_file *zip, struct text *archive)
{
	static const char suffix[] = "/data.pkl";
	size_t n = sizeof suffix - 1;
	for (size_t i = 0; i < zip->count; i++) {
		const struct zip_entry *e = &zip->entries[i];
		if (e->name_size > n && memcmp(e->name + e->name_size - n, suffix, n) == 0 &&
			!memchr(e->name, '\0', e->name_size)) {
			*archive = (struct text){e->name, e->name_size - n + 1};
			return e;
		}
	}
	return NULL;
}

static bool read_archive(struct safetensors *f, const struct zip_file *zip, struct error *err)
{
	struct text prefix;
	size_t dict;
	struct reader r = {.file = f, .zip = zip, .err = err};
	const struct zip_entry *pickle = find_pickle(zip, &prefix);
	if (!pickle)
		return refuse(&r, "the archive has no data.pkl");
	if (pickle->size > MAX_PICKLE_BYTES)
		return refuse(&r, "its data.pkl is too large");
	r.p = pickle->data;
	r.end = pickle->data + pickle->size;
	char *archive = strndup(prefix.at, prefix.size), *order = text_format("%sbyteorder", archive ? archive : "");
	r.archive = archive;
	const struct zip_entry *byteorder = order ? zip_file_find(zip, order) : NULL;
	bool ok = archive && order;
	if (!ok)
		error_set(err, "%s: out of memory", f->path);
	else if (byteorder && (byteorder->size != 6 || memcmp(byteorder->data, "little", 6) != 0))
		ok = refuse(&r, "it is not little-endian");
	ok = ok && run(&r, &dict) && add_tensors(f, &r, dict);
	free(order);
	free(archive);
	free(r.memo.at);
	free(r.stack.at);
	free(r.cells.at);
	free(r.items);
	free(r.tensors);
	return ok;
}

static struct safetensors *finish_open(struct safetensors *f, struct error *err)
{
	struct zip_file zip = {0};
	bool ok = f && zip_file_open(&zip, f->bytes, f->size, f->path, err) && read_archive(f, &zip, err);
	zip_file_close(&zip);
	if (!ok) {
		safetensors_close(f);
		return NULL;
	}
	return f;
}

struct safetensors *torch_state_open(const char *path, struct error *err)
{
	return finish_open(tensor_file_map(path, err), err);
}

struct safetensors *torch_state_from_memory(const void *bytes, size_t size, const char *name, struct error *err)
{
	return finish_open(tensor_file_borrow(bytes, size, name, err), err);
}
