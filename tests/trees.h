/* trees.h - what the tests of tree.c and of the journal share. */
#ifndef TESTS_TREES_H
#define TESTS_TREES_H

#include "tree.h"

/* Set an extended attribute; value NULL removes it. 0 or an errno. */
static inline int set_xattr(
	struct tree *tree, struct tree_node *node, const char *name, const void *value, uint32_t len)
{
	char *block;
	uint32_t block_len;
	int error = tree_xattr_make(node, name, value, len, &block, &block_len);
	if (!error)
		tree_xattr_replace(tree, node, block, block_len);
	return error;
}

#endif
