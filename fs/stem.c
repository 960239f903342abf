/* stem.c - the names of results. See stem.h. */
#include "stem.h"

#include "hash.h"
#include "sniff.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SUFFIX_ROOM = 16 }; /* ".gaussian.ply", ".preview.png", ".error.txt" and "-99" fit */
enum { STEM_TRIES = 100 };

bool stem_is_junk(const struct tree_node *node)
{
	if (sniff_name(node->name) == SNIFF_NAME_JUNK)
		return true;
	for (node = node->parent; node && node->parent && node->parent->parent; node = node->parent)
		if (sniff_folder_is_junk(node->name))
			return true;
	return false;
}

/* ---- Names. ---- */

/* Shorten a component so that a suffix fits, keeping it unique by a hash of the whole and cutting no UTF-8 character. */
static size_t fit_component(char *name, size_t len)
{
	char tag[16];
	uint8_t digest[4];
	if (len + SUFFIX_ROOM <= TREE_NAME_MAX)
		return len;
	hash_once(digest, sizeof digest, name, len);
	snprintf(tag, sizeof tag, "~%02x%02x%02x%02x", digest[0], digest[1], digest[2], digest[3]);
	len = TREE_NAME_MAX - SUFFIX_ROOM - strlen(tag);
	for (int back = 0; back < 3 && ((unsigned char)name[len] & 0xc0) == 0x80; back++)
		len--;
	memcpy(name + len, tag, strlen(tag));
	return len + strlen(tag);
}

/* How much of a name is left without its extension. A picture that was rotated ("a.png.1") keeps all: there is an a.png.2, too. */
static size_t without_extension(const char *name)
{
	char before[TREE_NAME_MAX + 1];
	const char *dot = strrchr(name, '.');
	if (!dot || dot == name)
		return strlen(name);
	snprintf(before, sizeof before, "%.*s", (int)(dot - name), name);
	bool rotated = sniff_name(name) == SNIFF_NAME_OTHER && sniff_name(before) == SNIFF_NAME_IMAGE;
	return rotated ? strlen(name) : (size_t)(dot - name);
}

bool stem_candidate(const char *path, int i, char *stem, size_t size)
{
	size_t len = strlen(path);
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	if (len + SUFFIX_ROOM + 16 > size)
		return false;
	size_t folder = name - path, keep = i == 0 ? without_extension(name) : strlen(name);
	memcpy(stem, path, folder + keep);
	keep = fit_component(stem + folder, keep);
	stem[folder + keep] = '\0';
	if (i >= 2)
		sprintf(stem + folder + keep, "-%d", i);
	return true;
}

/* Whether the text is the base, or that with "-2" to "-99". */
static bool is_numbered(const char *text, size_t len, const char *base, size_t base_len)
{
	if (len < base_len || memcmp(text, base, base_len) != 0)
		return false;
	text += base_len;
	len -= base_len;
	bool digits = (len == 2 || len == 3) && text[0] == '-';
	for (size_t i = 1; i < len; i++)
		digits &= text[i] >= '0' + (i == 1) && text[i] <= '9';
	return len == 0 || (digits && !(len == 2 && text[1] == '1'));
}

bool stem_fits(const char *path, const char *stem)
{
	char plain[TREE_NAME_MAX + 1 + 2 * SUFFIX_ROOM], whole[sizeof plain];
	for (const char *end; (end = strchr(path, '/')); path = end + 1) {
		size_t len = strcspn(stem, "/");
		if (!stem[len] || !is_numbered(stem, len, path, (size_t)(end - path)))
			return false;
		stem += len + 1;
	}
	if (!stem_candidate(path, 0, plain, sizeof plain) || !stem_candidate(path, 1, whole, sizeof whole))
		return false;
	return strcmp(stem, plain) == 0 || is_numbered(stem, strlen(stem), whole, strlen(whole));
}

const char *stem_extension(unsigned output)
{
	return output == JOB_OUTPUTS ? "error.txt" : job_output_extension(output);
}

void stem_path(const char *stem, unsigned output, char path[STEM_PATH_MAX])
{
	snprintf(path, STEM_PATH_MAX, "%s.%s", stem, stem_extension(output));
}

/* ---- What is there. ---- */

static struct tree_node *find_in_out(const struct tree *tree, const char *path)
{
	return tree_resolve(tree, tree_find(tree, TREE_OUT), path);
}

struct result *stem_result(const struct jobs *jobs, const struct tree *tree, const char *stem, unsigned output)
{
	char path[STEM_PATH_MAX];
	stem_path(stem, output, path);
	const struct tree_node *node = find_in_out(tree, path);
	struct result *result = node ? jobs_result(jobs, node->id) : NULL;
	return result && result->output == output ? result : NULL;
}

static bool is_live(const struct tree *tree, const struct input *input)
{
	const struct tree_node *node = tree_find(tree, input->id);
	return node && node->parent && node->area == AREA_IN && !stem_is_junk(node);
}

struct input *stem_live_source(const struct jobs *jobs, const struct tree *tree, const struct result *result)
{
	struct input *input = jobs_find(jobs, result->source);
	return input && is_live(tree, input) ? input : NULL;
}

/* Whether its path still asks for the stem that it has. */
static bool owns_stem(const struct tree *tree, const struct input *input)
{
	char path[PATH_MAX];
	return is_live(tree, input) && tree_path(tree_find(tree, input->id), path, sizeof path) &&
	       stem_fits(path, input->stem);
}

struct input *stem_owner(const struct jobs *jobs, const struct tree *tree, const char *stem, const struct input *except)
{
	for (struct input *other = NULL; (other = jobs_by_stem(jobs, stem, other));)
		if (other != except && owns_stem(tree, other))
			return other;
	return NULL;
}

static bool is_at(const char *stem, unsigned output, const char *path)
{
	size_t len = stem ? strlen(stem) : 0;
	return stem && strncmp(path, stem, len) == 0 && path[len] == '.' &&
	       strcmp(path + len + 1, stem_extension(output)) == 0;
}

/* Whether a result of this picture at that path is where we have put it, and will leave it when it follows the picture. */
static bool is_leaving(
	const struct tree *tree, const struct input *source, const struct result *result, const char *path)
{
	return is_at(source->old_stem, result->output, path) ||
	       (is_at(source->stem, result->output, path) && !owns_stem(tree, source));
}

/* Who may write this name beside the input, with another stem: the .gaussian.ply of one is the .ply of another. */
static bool is_written_by_other(
	const struct jobs *jobs, const struct tree *tree, const struct input *input, const char *path)
{
	size_t len = strlen(path);
	char stem[STEM_PATH_MAX];
	for (unsigned output = 0; output < JOB_OUTPUTS; output++) {
		size_t end = strlen(job_output_extension(output)) + 1;
		if (len <= end || path[len - end] != '.' ||
			strcmp(path + len - end + 1, job_output_extension(output)) != 0)
			continue;
		snprintf(stem, sizeof stem, "%.*s", (int)(len - end), path);
		const struct input *owner = stem_owner(jobs, tree, stem, input);
		if (owner && owner->options.outputs & 1u << output)
			return true;
	}
	return false;
}

/* What is at the path is not to be replaced by a result of the input. That of a picture that has gone is, by its owner's. */
static bool is_kept(const struct jobs *jobs, const struct tree *tree, const struct input *input, const char *path)
{
	const struct tree_node *there = find_in_out(tree, path), *node = tree_find(tree, input->id);
	const struct result *result = there ? jobs_result(jobs, there->id) : NULL;
	if (!there || (result && result->source == input->id))
		return false;
	if (!result || result->source == 0)
		return true;
	const struct input *source = stem_live_source(jobs, tree, result);
	return source ? !is_leaving(tree, source, result, path) : !node || node->uid != there->uid;
}

static bool is_taken(
	const struct jobs *jobs, const struct tree *tree, const struct input *input, const char *stem, uint32_t outputs)
{
	char path[STEM_PATH_MAX];
	if (stem_owner(jobs, tree, stem, input))
		return true;
	for (unsigned output = 0; output <= JOB_OUTPUTS; output++) {
		if (!(outputs & 1u << output))
			continue;
		stem_path(stem, output, path);
		if (is_written_by_other(jobs, tree, input, path) || is_kept(jobs, tree, input, path))
			return true;
	}
	return false;
}

struct input *stem_in_the_way(
	const struct jobs *jobs, const struct tree *tree, const struct input *input, uint32_t outputs)
{
	for (unsigned output = 0; output <= JOB_OUTPUTS; output++) {
		const struct result *result =
			outputs & 1u << output ? stem_result(jobs, tree, input->stem, output) : NULL;
		struct input *source = result ? stem_live_source(jobs, tree, result) : NULL;
		if (source && source != input)
			return source;
	}
	return NULL;
}

/* ---- Claims. ---- */

/* Number the folders of a path that are files in out/. False: too long, or no number is left. */
static bool place_folders(const struct tree *tree, const char *path, char *place, size_t size)
{
	size_t at = 0;
	for (const char *end; (end = strchr(path, '/')); path = end + 1) {
		int len = (int)(end - path);
		for (int i = 1;; i++) {
			char number[16] = "";
			if (i > 1)
				snprintf(number, sizeof number, "-%d", i);
			if (i >= STEM_TRIES || len + strlen(number) > TREE_NAME_MAX || at + len + 8 > size)
				return false;
			snprintf(place + at, size - at, "%.*s%s", len, path, number);
			const struct tree_node *there = find_in_out(tree, place);
			if (!there || S_ISDIR(there->mode))
				break;
		}
		at += strlen(place + at);
		place[at++] = '/';
	}
	return snprintf(place + at, size - at, "%s", path) < (int)(size - at);
}

/* Whether each folder of the stem can be one. */
static bool has_folders(const struct tree *tree, const char *stem)
{
	char folder[PATH_MAX];
	for (const char *end = stem; (end = strchr(end, '/')); end++) {
		snprintf(folder, sizeof folder, "%.*s", (int)(end - stem), stem);
		const struct tree_node *there = find_in_out(tree, folder);
		if (!there)
			return true;
		if (!S_ISDIR(there->mode))
			return false;
	}
	return true;
}

static bool change_stem(struct jobs *jobs, struct input *input, const char *stem)
{
	char *old = input->stem && !input->old_stem ? strdup(input->stem) : NULL;
	if ((input->stem && !input->old_stem && !old) || !jobs_set_stem(jobs, input, stem)) {
		free(old);
		return false;
	}
	if (old)
		input->old_stem = old;
	if (input->old_stem && strcmp(input->old_stem, stem) == 0) { /* back where they are */
		free(input->old_stem);
		input->old_stem = NULL;
	}
	return true;
}

bool stem_claim(struct jobs *jobs, const struct tree *tree, struct input *input, const struct tree_node *node,
	uint32_t outputs, struct error *err)
{
	char path[PATH_MAX], place[PATH_MAX], stem[PATH_MAX];
	outputs |= 1u << JOB_OUTPUTS;
	if (!tree_path(node, path, sizeof path) || !stem_candidate(path, 0, stem, sizeof stem))
		return error_set(err, "its path is too long for a result to have a name in out/");
	if (input->stem && stem_fits(path, input->stem) && has_folders(tree, input->stem) &&
		!is_taken(jobs, tree, input, input->stem, outputs))
		return true;
	bool placed = place_folders(tree, path, place, sizeof place);
	for (int i = 0; placed && i < STEM_TRIES && stem_candidate(place, i, stem, sizeof stem); i++)
		if (!is_taken(jobs, tree, input, stem, outputs))
			return change_stem(jobs, input, stem) || error_set(err, "out of memory");
	return error_set(err, "no name is left for its result in out/");
}
