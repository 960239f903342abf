/* record.h - the facts that the journal keeps, as bytes: nodes, extended attributes, inputs, results, configuration.
 * Each record states the whole fact, so replaying one twice does no harm, and a later one wins. */
#ifndef RECORD_H
#define RECORD_H

#include "bytes.h"
#include "jobs.h"
#include "tree.h"

/* The node under a name that it has or is about to get: journal first, then change the tree. */
void record_node(struct bytes *change, const struct tree_node *node, uint64_t parent, const char *name);
void record_xattrs(struct bytes *change, const struct tree_node *node);
/* Also ends the node's input and result. */
void record_node_gone(struct bytes *change, uint64_t id);
void record_input(struct bytes *change, const struct input *input);
void record_result(struct bytes *change, const struct result *result);
void record_config(struct bytes *change, const struct job_options *config);
void record_next_id(struct bytes *change, uint64_t next_id);

/* What records are applied to. */
struct record_target {
	struct tree *tree;
	struct jobs *jobs;
	struct job_options *config;
};

/* A journal_apply_fn; user is a struct record_target. False: damaged, or out of memory. */
bool record_apply(void *user, const uint8_t *change, size_t len);

/* Everything, framed for journal_write_image. */
void record_all(
	struct bytes *image, const struct tree *tree, const struct jobs *jobs, const struct job_options *config);

#endif
