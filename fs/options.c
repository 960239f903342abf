/* options.c - the option table and its parser. See options.h. */
#include "options.h"

#include "config.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { STRING, COUNT, SECONDS, BYTES, FLAG, JOB, IGNORED, MOUNT };

static const struct option {
	const char *name;
	enum kind kind;
	size_t at;
	const char *argument, *help;
} TABLE[] = {
	{"model", STRING, offsetof(struct options, model), "PATH|ID",
		"model directory or hub id (default: that of the trellis program)"},
	{"device", STRING, offsetof(struct options, device), "auto|cpu|cuda[:N]",
		"where the model runs (auto: CUDA if it works)"},
	{"dtype", STRING, offsetof(struct options, dtype), "f16|bf16|f32", "of the arithmetic on CUDA (f16)"},
	{"memory", STRING, offsetof(struct options, memory), "auto|low",
		"low: weights leave the device when their stage is over (auto)"},
	{"state", STRING, offsetof(struct options, state), "DIR",
		"where inputs, results and jobs are kept\n(~/.local/state/trellisfs/NAME, of root "
		"/var/lib/trellisfs/NAME)"},
	{"worker", STRING, offsetof(struct options, worker), "PROGRAM",
		"the program `trellis` (the one beside this program)"},
	{"worker_user", STRING, offsetof(struct options, worker_user), "NAME|UID",
		"whom the model runs as when root mounts\n(_trellisfs if there is one, else nobody)"},
	{"sandbox", STRING, offsetof(struct options, sandbox), "on|off",
		"off: the model runs with the rights of who mounts (on)"},
	{"threads", COUNT, offsetof(struct options, threads), "N", "threads of the model (all)"},
	{"idle", SECONDS, offsetof(struct options, idle_s), "S",
		"an idle model leaves memory after so long; 0: never (600)"},
	{"hang", SECONDS, offsetof(struct options, hang_s), "S",
		"a model without a sign of life is ended after so long (600)"},
	{"max_bytes", BYTES, offsetof(struct options, max_bytes), "N[K|M|G|T]",
		"limit on the sizes of all files, 512 bytes a name; 0: none"},
	{"allow_other", FLAG, offsetof(struct options, allow_other), NULL,
		"other users may use the mount, as its modes say"},
	{"seed", JOB, 0, "N", "options of the jobs, as in the file config of the mount"},
	{"steps", JOB, 0, "S[,L]", "steps of the structure and of the latent"},
	{"guidance", JOB, 0, "S[,L]", "strength of the guidance, likewise"},
	{"formats", JOB, 0, "LIST", "in -o a comma in a value is written \\, or as a space"},
	{"simplify", JOB, 0, "X", "share (below 1) or number of the triangles to keep"},
	{"preview", JOB, 0, "on|off", "also write NAME.preview.png"},
	{"foreground", FLAG, offsetof(struct options, foreground), NULL, "-f: stay in the foreground, log to stderr"},
	{"debug", FLAG, offsetof(struct options, debug), NULL, "-d: the same, and show every request"},
	{"single", FLAG, offsetof(struct options, single_thread), NULL, "-s: serve one request at a time"},
	{"version", FLAG, offsetof(struct options, version), NULL, "-V: print the version"},
	{"help", FLAG, offsetof(struct options, help), NULL, "-h: print this text"},
	/* What mount(8) and fstab add. nosuid, nodev and default_permissions always hold. */
	{"rw", IGNORED, 0, NULL, NULL},
	{"suid", IGNORED, 0, NULL, NULL},
	{"dev", IGNORED, 0, NULL, NULL},
	{"nosuid", IGNORED, 0, NULL, NULL},
	{"nodev", IGNORED, 0, NULL, NULL},
	{"exec", IGNORED, 0, NULL, NULL},
	{"auto", IGNORED, 0, NULL, NULL},
	{"noauto", IGNORED, 0, NULL, NULL},
	{"user", IGNORED, 0, NULL, NULL},
	{"nofail", IGNORED, 0, NULL, NULL},
	{"_netdev", IGNORED, 0, NULL, NULL},
	{"default_permissions", IGNORED, 0, NULL, NULL},
	{"noexec", MOUNT, 0, NULL, NULL},
	{"noatime", MOUNT, 0, NULL, NULL},
};

static const struct option *find_option(const char *name)
{
	for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
		if (strcmp(TABLE[i].name, name) == 0)
			return &TABLE[i];
	return NULL;
}

static bool parse_number(const struct option *option, const char *value, int64_t *out, struct error *err)
{
	static const char UNITS[] = "KMGT";
	char *end;
	errno = 0;
	long long n = strtoll(value, &end, 10);
	const char *unit = *end ? strchr(UNITS, *end) : NULL;
	int64_t limit = option->kind == BYTES ? INT64_MAX : 1000000;
	if (option->kind == BYTES && unit && !end[1]) {
		int shift = 10 * (int)(unit - UNITS + 1);
		if (n > INT64_MAX >> shift)
			errno = ERANGE;
		else
			n <<= shift;
		end++;
	}
	if (end == value || *end || n < 0 || n > limit || errno)
		return error_set(err, "option %s: wanted %s, got '%s'", option->name, option->argument, value);
	*out = n;
	return true;
}

static bool set_job(struct options *o, const char *name, const char *value, struct error *err)
{
	struct job_options scratch = config_defaults();
	size_t len = strlen(o->job_config), room = sizeof o->job_config - len;
	if (!config_set(&scratch, name, value, strlen(value), err))
		return false;
	if (snprintf(o->job_config + len, room, "%s = %s\n", name, value) >= (int)room)
		return error_set(err, "option %s: too many options", name);
	return true;
}

static bool is_device(const char *value)
{
	if (strncmp(value, "cuda:", 5) == 0)
		return value[5] && strspn(value + 5, "0123456789") == strlen(value + 5);
	return strcmp(value, "auto") == 0 || strcmp(value, "cpu") == 0 || strcmp(value, "cuda") == 0;
}

/* dtype, memory and sandbox: a word of the option's own list. */
static bool is_one_of(const struct option *option, const char *value)
{
	size_t len = strlen(value);
	if (option->at != offsetof(struct options, dtype) && option->at != offsetof(struct options, memory) &&
		option->at != offsetof(struct options, sandbox))
		return true;
	for (const char *p = option->argument; *p; p += strcspn(p, "|"), p += *p == '|')
		if (strcspn(p, "|") == len && strncmp(p, value, len) == 0)
			return true;
	return false;
}

static bool set_option(struct options *o, const char *name, const char *value, struct error *err)
{
	if (strncmp(name, "x-", 2) == 0) /* fstab's own */
		return true;
	const struct option *option = find_option(name);
	if (!option)
		return error_set(err, "unknown option '%s' (see trellisfs --help)", name);
	if (!option->argument != !value && option->kind != IGNORED)
		return option->argument ? error_set(err, "option %s: wanted %s=%s", name, name, option->argument)
					: error_set(err, "option %s takes no value, got '%s'", name, value);
	void *field = (char *)o + option->at;
	int64_t number = 0;
	switch (option->kind) {
	case STRING:
		if (!value[0])
			return error_set(err, "option %s: the value is empty", name);
		if (strcmp(name, "device") == 0 && !is_device(value))
			return error_set(err, "option device: wanted %s, got '%s'", option->argument, value);
		if (!is_one_of(option, value))
			return error_set(err, "option %s: wanted %s, got '%s'", name, option->argument, value);
		free(*(char **)field);
		*(char **)field = strdup(value);
		return *(char **)field || error_set(err, "out of memory");
	case COUNT:
	case SECONDS:
		if (!parse_number(option, value, &number, err))
			return false;
		*(int *)field = (int)number;
		return true;
	case BYTES:
		return parse_number(option, value, field, err);
	case FLAG:
		*(bool *)field = true;
		return true;
	case JOB:
		return set_job(o, name, value, err);
	case MOUNT:
		strcat(strcat(o->mount_options, ","), name);
		return strlen(o->mount_options) < 64 || error_set(err, "option %s: given too often", name);
	case IGNORED:
		break;
	}
	return true;
}

/* "name" or "name=value". */
static bool set_text(struct options *o, char *text, struct error *err)
{
	char *value = strchr(text, '=');
	if (value)
		*value++ = '\0';
	return set_option(o, text, value, err);
}

/* A list for -o: commas separate, `\,` is one. */
static bool set_list(struct options *o, const char *list, struct error *err)
{
	char one[PATH_MAX + 64];
	size_t n = 0;
	for (const char *p = list;; p++) {
		if (*p && *p != ',') {
			if (*p == '\\' && p[1])
				p++;
			if (n + 1 >= sizeof one)
				return error_set(err, "option %.40s...: too long", list);
			one[n++] = *p;
			continue;
		}
		one[n] = '\0';
		if (n > 0 && !set_text(o, one, err))
			return false;
		n = 0;
		if (!*p)
			return true;
	}
}

static bool set_letters(struct options *o, const char *letters, struct error *err)
{
	static const char *const NAMES[] = {"fforeground", "ddebug", "ssingle", "Vversion", "hhelp"};
	for (; *letters; letters++) {
		size_t i = 0, n = sizeof NAMES / sizeof *NAMES;
		while (i < n && NAMES[i][0] != *letters)
			i++;
		if (i == n)
			return error_set(err, "unknown option '-%c' (see trellisfs --help)", *letters);
		if (!set_option(o, NAMES[i] + 1, NULL, err))
			return false;
	}
	return true;
}

static bool set_long(struct options *o, const char *argument, struct error *err)
{
	char *copy = strdup(argument);
	bool ok = copy ? set_text(o, copy, err) : error_set(err, "out of memory");
	free(copy);
	return ok;
}

bool options_parse(struct options *options, int argc, char **argv, struct error *err)
{
	*options = (struct options){.idle_s = 600, .hang_s = 600};
	bool only_names = false;
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];
		bool ok = true;
		if (!only_names && strcmp(a, "--") == 0) {
			only_names = true;
		} else if (!only_names && strncmp(a, "--", 2) == 0) {
			ok = set_long(options, a + 2, err);
		} else if (!only_names && strncmp(a, "-o", 2) == 0) {
			const char *list = a[2] ? a + 2 : argv[++i];
			ok = list ? set_list(options, list, err) : error_set(err, "option -o: wanted a list after it");
		} else if (!only_names && a[0] == '-' && a[1]) {
			ok = set_letters(options, a + 1, err);
		} else {
			free(options->mountpoint); /* mount(8) gives a source first: the last name is the mountpoint */
			options->mountpoint = strdup(a);
		}
		if (!ok)
			return false;
	}
	options->foreground |= options->debug;
	if (!options->mountpoint && !options->help && !options->version)
		return error_set(err, "no mountpoint given (see trellisfs --help)");
	return true;
}

void options_finish(struct options *options)
{
	free(options->mountpoint);
	free(options->model);
	free(options->device);
	free(options->dtype);
	free(options->memory);
	free(options->state);
	free(options->worker);
	free(options->worker_user);
	free(options->sandbox);
	*options = (struct options){0};
}

void options_print_help(void)
{
	printf("usage: trellisfs [-o option,...] [--option ...] MOUNTPOINT\n"
	       "       trellisfs --check STATE [--repair | --salvage DIR]\n"
	       "Pictures copied to MOUNTPOINT/in become 3D models in MOUNTPOINT/out.\n"
	       "\n"
	       "Options, as -o name=value or --name=value:\n");
	for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE && TABLE[i].help; i++) {
		char left[64];
		snprintf(left, sizeof left, "%s%s%s", TABLE[i].name, TABLE[i].argument ? "=" : "",
			TABLE[i].argument ? TABLE[i].argument : "");
		printf("  %-26s", left);
		for (const char *p = TABLE[i].help; *p; p++)
			*p == '\n' ? printf("\n%28s", "") : putchar(*p);
		putchar('\n');
	}
	printf("\nUnmount with: fusermount3 -u MOUNTPOINT\n"
	       "\n"
	       "--check looks at a state directory that is not mounted and changes nothing; --repair puts right what "
	       "can be, as\n"
	       "the next mount would; --salvage copies what is there to DIR. Exit status: 0 clean, 1 put right, 4 "
	       "errors are left,\n"
	       "8 it cannot be looked at, put right or copied out, 16 usage.\n");
}
