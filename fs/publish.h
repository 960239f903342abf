/* publish.h - make a finished file appear in out/ so that inotify watchers see exactly one event.
 *
 * The finished bytes wait as a node without a name. The helper process looks up a one-shot token in the mount's root
 * (only its pid, with the right 64 random bits, gets an answer), which arms the node; its next CREATE in out/, or a
 * RENAME of the token onto a name there, then binds the node: no byte is copied, and the size is right at CREATE.
 * For a new name: CREATE, OPEN, CLOSE_WRITE. For a taken one: MOVED_TO, with a fresh inode. */
#ifndef PUBLISH_H
#define PUBLISH_H

#include "fs.h"

bool publish_is_helper(const struct fs *fs, const struct caller *caller);
/* The waiting node, if the caller is the helper and name its token. */
struct tree_node *publish_waiting(struct fs *fs, const struct caller *caller, const char *name);
/* Give the waiting node its name, in place of what is there; ends the publication. ECANCELED: the input was deleted or
 * submitted again meanwhile. Needs fs->lock. */
int publish_bind(struct fs *fs, struct tree_node *parent, const char *name);

/* The rest belongs to the scheduler thread. */
struct publisher;

/* Start the helper. Before the mount; only then may it be missing from the mount's users. */
struct publisher *publisher_create(struct fs *fs, struct error *err);
void publisher_destroy(struct publisher *publisher);

/* Wait until the mount answers and remember its device number. */
bool publisher_adopt(struct publisher *publisher, struct error *err);

/* What to publish: content is in the state directory under node_id already. */
struct publish_file {
	uint64_t node_id;
	const char *path; /* below out/, "d/a.glb" */
	uint32_t uid, gid, mode;
	int64_t size;
	uint64_t source, seq; /* the input and which submission of it */
	const uint8_t *key;
	unsigned output;
	bool last;
	bool follows; /* as of struct publication; then never refused for want of space */
};

/* Publish; when the helper can't, the file is inserted silently. ECANCELED: not wanted any more; another errno: why it has no
 * place (EISDIR, ENOTDIR) or the system refused it. Then the content is removed. */
int publisher_publish(struct publisher *publisher, const struct publish_file *file);
/* Remove a file of out/ so that watchers see it; nothing if it isn't there. */
void publisher_unlink(struct publisher *publisher, const char *path);
/* Rename a node of out/, from one path below it to another, in place of a file there. 0, or an errno: ESTALE when another node
 * is at `from` by now. */
int publisher_move(struct publisher *publisher, const char *from, const char *to, uint64_t node_id);
/* The same so that no watcher sees it. */
int publisher_move_silently(struct publisher *publisher, const char *from, const char *to, uint64_t node_id);
/* Remove an empty folder of out/. */
void publisher_rmdir(struct publisher *publisher, const char *path);
/* Wake those who watch `status`. */
void publisher_touch_status(struct publisher *publisher);
/* Helpers that did not end at once when they were replaced: from time to time. */
void publisher_reap(struct publisher *publisher);
/* One line when results can't be announced; "" otherwise. */
const char *publisher_notice(const struct publisher *publisher);

#endif
