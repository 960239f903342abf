/* record.h - the facts that the journal keeps, as bytes: nodes, extended attributes, inputs, results, configuration.
 * Each record states the whole fact, so replaying one twice does no harm, and a later one wins.
 *
 * After damage the facts before a record may be missing. It is then applied as far as it goes: what names an unknown folder
 * goes to a folder of that id in lost/, where a later record still finds it; a name that is taken goes to the later record;
 * what has no place left is in lost/ under its id. Nothing is dropped. */
#ifndef RECORD_H
#define RECORD_H

#include "bytes.h"
#include "jobs.h"
#include "journal.h"
#include "tree.h"

/* The node under a name that it has or is about to get: journal first, then change the tree. */
void record_node(struct bytes *change, const struct tree_node *node, uint64_t parent, const char *name);
void record_xattrs(struct bytes *change, const struct tree_node *node);
/* Also ends the node's input and result. */
void record_node_gone(struct bytes *change, uint64_t id);
void record_input(struct bytes *change, const struct input *input);
void record_result(struct bytes *change, const struct result *result);
void record_config(struct bytes *change, const struct job_options *config);
/* Ids below this may have been given away. */
void record_next_id(struct bytes *change, uint64_t next_id);
/* Something was made, removed or renamed in the folder then. */
void record_folder(struct bytes *change, uint64_t id, int64_t now_ns);

/* What records are applied to. */
struct record_target {
	struct tree *tree;
	struct jobs *jobs;
	struct job_options *config;
};

/* A journal_apply_fn; user is a struct record_target. */
enum change_fate record_apply(void *user, const uint8_t *change, size_t len);

/* Everything, change by change, parents before their children; id_limit: as of record_next_id. */
struct record_source {
	const struct tree *tree;
	const struct jobs *jobs;
	const struct job_options *config;
	uint64_t id_limit;
	struct bytes *change; /* a buffer for it */
};
/* For struct journal_facts, of which a struct record_source is the facts. */
bool record_each(const void *source, journal_take_fn take, void *to);
/* The same as an image. */
void record_all(struct bytes *image, const struct tree *tree, const struct jobs *jobs, const struct job_options *config,
	uint64_t id_limit);
/* About how long the log of that is. */
int64_t record_live_bytes(const struct tree *tree, const struct jobs *jobs);

/* A name in lost/ for what has this id: "0000000000000042-a.png", its end cut where it is too long. */
void record_lost_name(char name[TREE_NAME_MAX + 1], uint64_t id, const char *was);

#endif
