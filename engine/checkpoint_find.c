/* checkpoint_find.c - repair a role that points at a checkpoint of another class: find the right one beside it.
 * Used by model.c. Pipelines in the wild have such faults; the official loader fails on them much later. */
#include "loader.h"
#include "text.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#define SEPARATORS "_-./"

/* Whether list has a word of this length. */
static bool has_word(const char *list, const char *word, size_t length)
{
	for (const char *p = list + strspn(list, SEPARATORS); *p; p += strspn(p, SEPARATORS)) {
		size_t n = strcspn(p, SEPARATORS);
		if (n == length && memcmp(p, word, n) == 0)
			return true;
		p += n;
	}
	return false;
}

/* How many words of name are in reference, and twice those in hints. */
static int score(const char *name, const char *reference, const char *hints)
{
	int points = 0;
	for (const char *p = name + strspn(name, SEPARATORS); *p; p += strspn(p, SEPARATORS)) {
		size_t n = strcspn(p, SEPARATORS);
		points += has_word(reference, p, n) + 2 * has_word(hints, p, n);
		p += n;
	}
	return points;
}

static int is_description(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name);
	return n > 5 && strcmp(entry->d_name + n - 5, ".json") == 0;
}

/* The path without extension of a description whose class plays role and whose tensors are there; NULL: it is not. */
static char *accept(const char *directory, const char *file, enum model_role role)
{
	struct error ignored;
	char class[128];
	char *path = text_format("%s/%.*s", directory, (int)strlen(file) - 5, file);
	char *json = text_format("%s/%s", directory, file),
	     *tensors = path ? text_format("%s.safetensors", path) : NULL;
	bool fits = json && tensors && loader_is_file(tensors) &&
		    checkpoint_read_class(class, sizeof class, json, &ignored) && checkpoint_class_role(class) == role;
	free(json);
	free(tensors);
	if (!fits) {
		free(path);
		path = NULL;
	}
	return path;
}

char *checkpoint_find_class(
	const char *path, enum model_role role, const char *reference, const char *hints, struct error *err)
{
	const char *slash = strrchr(path, '/');
	char *directory = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
	struct dirent **entries = NULL;
	int n = directory ? scandir(directory, &entries, is_description, alphasort) : 0, best_score = -1;
	char *best = NULL;
	bool tie = false;

	for (int i = 0; i < n; i++) {
		char *candidate = accept(directory, entries[i]->d_name, role);
		int points = candidate ? score(entries[i]->d_name, reference, hints) : -1;
		if (candidate && points >= best_score)
			tie = points == best_score;
		if (points > best_score) {
			free(best);
			best = candidate;
			best_score = points;
		} else {
			free(candidate);
		}
		free(entries[i]);
	}
	free(entries);
	if (!best || tie) {
		error_set(err, "%s: role %s points at a checkpoint of another class, and %s/ has %s of the right one",
			path, model_role_name(role), directory ? directory : ".", tie ? "several" : "none");
		free(best);
		best = NULL;
	}
	free(directory);
	return best;
}
