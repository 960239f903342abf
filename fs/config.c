/* config.c - the option table: names, ranges and text forms of a job's options. Contract: config.h. */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define VALUE_MAX 128 /* longest value that makes sense */

/* Numbers are read and written in the C locale's form: the daemon never calls setlocale. */
static bool parse_number(const char *text, double low, double high, bool whole, double *out)
{
	char *end;
	if (!*text || strspn(text, "0123456789+-.eE") != strlen(text))
		return false; /* no hex, inf, nan or inner space */
	double value = strtod(text, &end);
	if (*end || !(value >= low && value <= high) || (whole && value != (double)(long long)value))
		return false;
	*out = value;
	return true;
}

/* "S" or "S,L"; one number is for both. text is cut at the comma. */
static bool parse_pair(char *text, double low, double high, bool whole, double out[2])
{
	char *comma = strchr(text, ',');
	if (!comma)
		return parse_number(text, low, high, whole, &out[0]) && ((out[1] = out[0]), true);
	*comma++ = 0;
	text[strcspn(text, " \t")] = 0;
	comma += strspn(comma, " \t");
	return parse_number(text, low, high, whole, &out[0]) && parse_number(comma, low, high, whole, &out[1]);
}

/* The shortest of two forms that reads back as the same float. */
static const char *show_float(float value, char out[16])
{
	snprintf(out, 16, "%.6g", (double)value);
	if (strtof(out, NULL) != value)
		snprintf(out, 16, "%.9g", (double)value);
	return out;
}

static bool set_seed(struct job_options *o, char *text)
{
	double value;
	if (!parse_number(text, 0, UINT32_MAX, true, &value))
		return false;
	o->seed = (uint32_t)value;
	return true;
}

static void get_seed(const struct job_options *o, char *out, size_t size)
{
	snprintf(out, size, "%u", o->seed);
}

static bool set_steps(struct job_options *o, char *text)
{
	double pair[2] = {0, 0};
	if (strcmp(text, "default") != 0 && !parse_pair(text, 1, JOB_STEPS_MAX, true, pair))
		return false;
	o->structure_steps = (int32_t)pair[0];
	o->latent_steps = (int32_t)pair[1];
	return true;
}

static void get_steps(const struct job_options *o, char *out, size_t size)
{
	if (o->structure_steps == 0)
		snprintf(out, size, "default");
	else if (o->structure_steps == o->latent_steps)
		snprintf(out, size, "%d", o->structure_steps);
	else
		snprintf(out, size, "%d,%d", o->structure_steps, o->latent_steps);
}

static bool set_guidance(struct job_options *o, char *text)
{
	double pair[2] = {-1, -1};
	if (strcmp(text, "default") != 0 && !parse_pair(text, 0, (double)JOB_GUIDANCE_MAX, false, pair))
		return false;
	o->structure_guidance = (float)pair[0];
	o->latent_guidance = (float)pair[1];
	return true;
}

static void get_guidance(const struct job_options *o, char *out, size_t size)
{
	char s[16], l[16];
	if (o->structure_guidance < 0)
		snprintf(out, size, "default");
	else if (o->structure_guidance == o->latent_guidance)
		snprintf(out, size, "%s", show_float(o->structure_guidance, s));
	else
		snprintf(out, size, "%s,%s", show_float(o->structure_guidance, s), show_float(o->latent_guidance, l));
}

static bool set_formats(struct job_options *o, char *text)
{
	uint32_t formats = 0;
	char *rest;
	for (char *word = strtok_r(text, ", \t", &rest); word; word = strtok_r(NULL, ", \t", &rest)) {
		int i = 0;
		while (i < JOB_PREVIEW && strcasecmp(word, job_output_extension((enum job_output)i)) != 0)
			i++;
		if (i == JOB_PREVIEW)
			return false;
		formats |= 1u << i;
	}
	if (formats)
		o->outputs = formats | (o->outputs & 1u << JOB_PREVIEW);
	return formats != 0;
}

static void get_formats(const struct job_options *o, char *out, size_t size)
{
	size_t len = 0;
	out[0] = 0;
	for (int i = 0; i < JOB_PREVIEW && len < size; i++)
		if (o->outputs & 1u << i)
			len += (size_t)snprintf(out + len, size - len, "%s%s", len ? "," : "",
				job_output_extension((enum job_output)i));
}

static bool set_simplify(struct job_options *o, char *text)
{
	double value;
	if (!parse_number(text, 0, (double)JOB_SIMPLIFY_MAX, false, &value))
		return false;
	o->simplify = (float)value;
	return true;
}

static void get_simplify(const struct job_options *o, char *out, size_t size)
{
	char text[16];
	snprintf(out, size, "%s", show_float(o->simplify, text));
}

static bool set_preview(struct job_options *o, char *text)
{
	bool on = !strcasecmp(text, "on") || !strcasecmp(text, "yes") || !strcmp(text, "1");
	if (!on && strcasecmp(text, "off") != 0 && strcasecmp(text, "no") != 0 && strcmp(text, "0") != 0)
		return false;
	o->outputs = CONFIG_FORMATS(o) | (on ? 1u << JOB_PREVIEW : 0);
	return true;
}

static void get_preview(const struct job_options *o, char *out, size_t size)
{
	snprintf(out, size, "%s", o->outputs & 1u << JOB_PREVIEW ? "on" : "off");
}

struct option {
	const char *key;
	const char *allowed; /* follows "allowed: " in errors and in the config file */
	const char *help;
	bool (*set)(struct job_options *options, char *text); /* text may be cut up */
	void (*get)(const struct job_options *options, char *out, size_t size);
};

static const struct option options_table[] = {
	{"seed", "0 to 4294967295", "the same picture, options and seed give the same mesh", set_seed, get_seed},
	{"steps", "default, or S or S,L from 1 to 1000", "sampling steps of structure and latent", set_steps,
		get_steps},
	{"guidance", "default, or S or S,L from 0 to 100", "guidance strength of structure and latent", set_guidance,
		get_guidance},
	{"formats", "some of glb, obj, ply, stl, gaussian.ply", "files to write for every picture", set_formats,
		get_formats},
	{"simplify", "0 (keep all), a share like 0.5, or a number of triangles like 20000", "fewer triangles",
		set_simplify, get_simplify},
	{"preview", "on or off", "also write a picture of the mesh, NAME.preview.png", set_preview, get_preview},
};
#define N_OPTIONS ((int)(sizeof options_table / sizeof *options_table))

static const struct option *find_option(const char *key)
{
	for (int i = 0; i < N_OPTIONS; i++)
		if (!strcmp(key, options_table[i].key))
			return &options_table[i];
	return NULL;
}

struct job_options config_defaults(void)
{
	return (struct job_options){.seed = 42, /* the official code's */
		.structure_guidance = -1,
		.latent_guidance = -1,
		.outputs = 1u << JOB_GLB | 1u << JOB_PREVIEW};
}

const char *config_key(int i)
{
	return i >= 0 && i < N_OPTIONS ? options_table[i].key : NULL;
}

bool config_has_key(const char *key)
{
	return find_option(key) != NULL;
}

/* Bytes for an error line: at most size - 1 of them, without those that would break the line or the terminal. */
static const char *printable(const char *text, size_t len, char *out, size_t size)
{
	size_t n = 0;
	for (; n < len && n < size - 1; n++)
		out[n] = (unsigned char)text[n] < 0x20 || text[n] == 0x7f ? '?' : text[n];
	out[n] = 0;
	return out;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void trim(const char **text, size_t *len)
{
	while (*len && is_space(**text))
		(*text)++, (*len)--;
	while (*len && is_space((*text)[*len - 1]))
		(*len)--;
}

bool config_set(struct job_options *options, const char *key, const char *value, size_t value_len, struct error *err)
{
	char shown[64], text[VALUE_MAX];
	const struct option *option = find_option(key);
	if (!option) {
		char known[128] = "";
		for (int i = 0, n = 0; i < N_OPTIONS; i++)
			n += snprintf(known + n, sizeof known - (size_t)n, "%s%s", i ? ", " : "", options_table[i].key);
		return error_set(
			err, "unknown option '%s'; known: %s", printable(key, strlen(key), shown, sizeof shown), known);
	}
	trim(&value, &value_len);
	struct job_options changed = *options, defaults = config_defaults();
	bool ok = false;
	if (value_len < sizeof text && !memchr(value, 0, value_len)) {
		memcpy(text, value, value_len);
		text[value_len] = 0;
		if (!strcmp(text, "default")) /* stays so where the default is the model's own */
			option->get(&defaults, text, sizeof text);
		ok = option->set(&changed, text);
	}
	if (!ok)
		return error_set(err, "%s = '%s': allowed: %s", option->key,
			printable(value, value_len, shown, sizeof shown), option->allowed);
	*options = changed;
	return true;
}

void config_get(const struct job_options *options, const char *key, char *out, size_t size)
{
	const struct option *option = find_option(key);
	assert(option && size);
	option->get(options, out, size);
}

/* One line of a config file without its newline. */
static bool parse_line(struct job_options *options, const char *line, size_t len, int number, struct error *err)
{
	char key[32], shown[64];
	const char *comment = memchr(line, '#', len);
	if (comment)
		len = (size_t)(comment - line);
	trim(&line, &len);
	if (!len)
		return true;
	const char *equals = memchr(line, '=', len);
	if (!equals)
		return error_set(err, "config line %d: '%s' is not key = value", number,
			printable(line, len, shown, sizeof shown));
	const char *name = line;
	size_t name_len = (size_t)(equals - line);
	trim(&name, &name_len);
	struct error why;
	bool ok;
	if (name_len < sizeof key && !memchr(name, 0, name_len)) {
		memcpy(key, name, name_len);
		key[name_len] = 0;
		ok = config_set(options, key, equals + 1, len - (size_t)(equals + 1 - line), &why);
	} else {
		ok = error_set(&why, "unknown option '%s'", printable(name, name_len, shown, sizeof shown));
	}
	return ok || error_set(err, "config line %d: %.900s", number, why.text);
}

bool config_parse(struct job_options *options, const char *text, size_t text_len, struct error *err)
{
	struct job_options changed = *options;
	int number = 0;
	while (text_len) {
		const char *newline = memchr(text, '\n', text_len);
		size_t len = newline ? (size_t)(newline - text) : text_len, used = newline ? len + 1 : len;
		if (!parse_line(&changed, text, len, ++number, err))
			return false;
		text += used;
		text_len -= used;
	}
	*options = changed;
	return true;
}

size_t config_render(const struct job_options *options, char *out, size_t size)
{
	size_t len = 0;
	char value[VALUE_MAX];
	out[0] = 0;
	for (int i = 0; i < N_OPTIONS && len < size; i++) {
		const struct option *o = &options_table[i];
		o->get(options, value, sizeof value);
		int column = 24 - (int)strlen(o->key) - 3;
		len += (size_t)snprintf(
			out + len, size - len, "%s = %-*s # %s: %s\n", o->key, column, value, o->help, o->allowed);
	}
	return len < size ? len : size - 1;
}

size_t config_line(const struct job_options *options, const char *between, char *out, size_t size)
{
	size_t len = 0;
	char value[VALUE_MAX];
	out[0] = 0;
	for (int i = 0; i < N_OPTIONS && len < size; i++) {
		options_table[i].get(options, value, sizeof value);
		len += (size_t)snprintf(
			out + len, size - len, "%s%s=%s", i ? between : "", options_table[i].key, value);
	}
	return len < size ? len : size - 1;
}
