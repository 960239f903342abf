/* stem.h - which names in out/ the results of a picture have: those of in/d/a.png are out/d/a.*, and "d/a" is its stem.
 * Plain data, no threads, no disk: fs->lock guards it. An input keeps its stem as long as that is one of the candidates for its
 * path; follow.h brings the results to a new one.
 *
 * The candidates: "d/a", "d/a.png", "d/a.png-2" ... The first is taken whose names are free, all that a job may write. Not free is
 * what another picture owns, a folder, another picture's result, and what a user has put there. A folder "d" is "d-2" in out/
 * where a file is called so. Names that would not fit 255 bytes with any suffix are shortened and get a hash. */
#ifndef STEM_H
#define STEM_H

#include "jobs.h"

/* Whether the node, or a folder that it is in, has a name that makes it junk: stored, but no picture, and owner of no stem. */
bool stem_is_junk(const struct tree_node *node);

/* The i-th candidate (0, 1, 2 ...) for a path; stem has room for size bytes. False: too long. */
bool stem_candidate(const char *path, int i, char *stem, size_t size);
/* Whether the stem is one of them. */
bool stem_fits(const char *path, const char *stem);

/* "d/a.glb"; output JOB_OUTPUTS: "d/a.error.txt". path has room for STEM_PATH_MAX bytes. */
enum { STEM_PATH_MAX = 4096 + 32 };
const char *stem_extension(unsigned output);
void stem_path(const char *stem, unsigned output, char path[STEM_PATH_MAX]);

/* Where in out/ the input may put these outputs (a set; 1u << JOB_OUTPUTS is the error file): its own stem if that still fits,
 * else the first candidate that is free. With a new stem it has an old_stem. False: there is no place in out/, and err says why. */
bool stem_claim(struct jobs *jobs, const struct tree *tree, struct input *input, const struct tree_node *node,
	uint32_t outputs, struct error *err);

/* The input that owns a stem: one whose path asks for it. NULL: none but `except`. */
struct input *stem_owner(
	const struct jobs *jobs, const struct tree *tree, const char *stem, const struct input *except);
/* An input other than this one whose results are at a name that this one will have, and are about to leave it. Or NULL. */
struct input *stem_in_the_way(
	const struct jobs *jobs, const struct tree *tree, const struct input *input, uint32_t outputs);
/* The result at a name in out/, or NULL. */
struct result *stem_result(const struct jobs *jobs, const struct tree *tree, const char *stem, unsigned output);
/* The source of a result if that is a picture with a name that is no junk, else NULL. */
struct input *stem_live_source(const struct jobs *jobs, const struct tree *tree, const struct result *result);

#endif
