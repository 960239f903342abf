/* fuzz_fs_sniff.c - any bytes under an image's name, another's and none: an answer, the same under every name that lets
 * the bytes decide, and a whole image within the limits. */
#include "seeds.h"
#include "sniff.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char png[] =
		"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\0\0\0\0crc.\0\0\0\1IDATxcrc.\0\0\0\0IENDcrc.";
	static const char jpeg[] =
		"\xff\xd8\xff\xc2\0\x0b\x08\1\xe0\2\x80\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0data\xff\xd9";
	seeds_write(seeds_corpus(*argc, *argv), "png", png, sizeof png - 1);
	seeds_write(seeds_corpus(*argc, *argv), "jpeg", jpeg, sizeof jpeg - 1);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	struct sniff_image image = {0};
	struct error err = {0};
	if (fd < 0)
		fd = memfd_create("sniff", MFD_CLOEXEC);
	if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		return -1;
	enum sniff_verdict named = sniff_file(fd, "a.png", &image, &err), other = sniff_file(fd, "a", NULL, NULL);
	if ((named == SNIFF_WHOLE) != (other == SNIFF_WHOLE) || named == SNIFF_IO_ERROR ||
		(size && named == SNIFF_IGNORED))
		abort();
	if (named == SNIFF_WHOLE &&
		(!image.width || !image.height || (uint64_t)image.width * image.height > SNIFF_MAX_PIXELS))
		abort();
	if ((named == SNIFF_TRUNCATED || named == SNIFF_REFUSED) && (!err.text[0] || strchr(err.text, '\n')))
		abort();
	return 0;
}
