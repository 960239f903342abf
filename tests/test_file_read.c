/* test_file_read.c - files are read whole whatever pieces the system hands out. */
#include "buffer.h"
#include "json_fields.h"
#include "trellis.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int calls;

/* In place of the system's: interrupted now and then, and never more than seven bytes. */
ssize_t pread(int fd, void *bytes, size_t size, off_t at)
{
	if (++calls % 5 == 0) {
		errno = EINTR;
		return -1;
	}
	return syscall(SYS_pread64, fd, bytes, size < 7 ? size : 7, at);
}

Test(file_read, in_pieces)
{
	struct error err = {""};
	struct trellis_image image;
	json_t *pipeline = json_fields_load("tests/golden/e2e/pipeline.json", &err);
	cr_assert(pipeline, "%s", err.text);
	cr_expect_gt(calls, 100);
	json_decref(pipeline);
	cr_assert(trellis_image_load(&image, "tests/golden/e2e/input.png", &err), "%s", err.text);
	trellis_image_finish(&image);
}

Test(file_read, as_much_as_there_is)
{
	char bytes[64] = "";
	FILE *f = tmpfile();
	fputs("ten bytes.", f);
	fflush(f);
	cr_expect_eq(file_read(fileno(f), bytes, sizeof bytes), 10);
	cr_expect_str_eq(bytes, "ten bytes.");
	cr_expect_eq(file_read(fileno(f), bytes, 3), 3);
	fclose(f);
	cr_expect_eq(file_read(-1, bytes, 3), -1);
}
