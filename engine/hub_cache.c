/* hub_cache.c - find what an official install left on disk: the Hugging Face cache and torch.hub's. Never goes online.
 * Used by model.c and encoder_find.c.
 * Source: huggingface_hub's documentation of its cache (models--org--name/refs/main names a directory in snapshots/,
 * whose files are links into blobs/) and of its environment variables; torch.hub's documentation of TORCH_HOME. */
#include "loader.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *get_variable(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

/* $XDG_CACHE_HOME or ~/.cache, then the rest. */
static char *in_user_cache(const char *rest)
{
	const char *cache = get_variable("XDG_CACHE_HOME"), *home = get_variable("HOME");
	if (cache)
		return text_format("%s/%s", cache, rest);
	return home ? text_format("%s/.cache/%s", home, rest) : NULL;
}

/* The first that is set decides, as in huggingface_hub. */
char *hub_cache_directory(void)
{
	const char *value;
	if ((value = get_variable("HF_HUB_CACHE")) || (value = get_variable("HUGGINGFACE_HUB_CACHE")))
		return strdup(value);
	if ((value = get_variable("HF_HOME")))
		return text_format("%s/hub", value);
	return in_user_cache("huggingface/hub");
}

char *hub_cache_torch_directory(void)
{
	const char *value = get_variable("TORCH_HOME");
	return value ? text_format("%s/hub/checkpoints", value) : in_user_cache("torch/hub/checkpoints");
}

static bool is_part(const char *text, size_t length)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
	return length > 0 && length <= 96 && strspn(text, allowed) >= length && text[0] != '.' && text[0] != '-';
}

bool hub_cache_is_id(const char *text)
{
	const char *slash = strchr(text, '/');
	return slash && is_part(text, (size_t)(slash - text)) && is_part(slash + 1, strlen(slash + 1));
}

char *hub_cache_snapshot(const char *directory, struct error *err)
{
	char revision[97] = "", *snapshot = NULL, *path = text_format("%s/refs/main", directory);
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
	if (fd < 0) {
		error_set(err, "%s: %s", path ? path : directory, strerror(errno));
		free(path);
		return NULL;
	}
	ssize_t n = read(fd, revision, sizeof revision - 1);
	close(fd);
	if (n > 0)
		revision[strcspn(revision, "\r\n ")] = '\0';
	if (n <= 0 || !is_part(revision, strlen(revision)))
		error_set(err, "%s: does not name a revision", path);
	else if (!(snapshot = text_format("%s/snapshots/%s", directory, revision)))
		error_set(err, "%s: out of memory", path);
	else if (!loader_is_directory(snapshot)) {
		error_set(err, "%s: the revision that refs/main names is not there", snapshot);
		free(snapshot);
		snapshot = NULL;
	}
	free(path);
	return snapshot;
}

char *hub_cache_find(const char *id, struct error *err)
{
	const char *slash = strchr(id, '/');
	char *cache = hub_cache_directory(), *snapshot = NULL;
	char *directory = cache ? text_format("%s/models--%.*s--%s", cache, (int)(slash - id), id, slash + 1) : NULL;
	if (!cache)
		error_set(err, "%s: no Hugging Face cache to look in (HF_HOME and HOME are not set)", id);
	else if (directory && !loader_is_directory(directory))
		error_set(err, "%s: not in the Hugging Face cache %s", id, cache);
	else if (directory)
		snapshot = hub_cache_snapshot(directory, err);
	else
		error_set(err, "%s: out of memory", id);
	free(directory);
	free(cache);
	return snapshot;
}
