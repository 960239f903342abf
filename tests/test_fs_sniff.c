/* test_fs_sniff.c - names, formats and truncation, on files built here chunk by chunk and marker by marker. */
#include "sniff.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct bytes {
	uint8_t data[1 << 20];
	size_t len;
};

static void put(struct bytes *b, const void *data, size_t len)
{
	cr_assert(b->len + len <= sizeof b->data);
	memcpy(b->data + b->len, data, len);
	b->len += len;
}
#define PUT(b, literal) put((b), (literal), sizeof(literal) - 1)

static void put_chunk(struct bytes *b, const char *type, const void *data, uint32_t len)
{
	uint8_t head[4] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
	put(b, head, 4);
	put(b, type, 4);
	put(b, data, len);
	PUT(b, "crc.");
}

static void put_png_start(struct bytes *b, uint32_t width, uint32_t height)
{
	uint8_t header[13] = {(uint8_t)(width >> 24), (uint8_t)(width >> 16), (uint8_t)(width >> 8), (uint8_t)width,
		(uint8_t)(height >> 24), (uint8_t)(height >> 16), (uint8_t)(height >> 8), (uint8_t)height, 8, 6};
	b->len = 0;
	PUT(b, "\x89PNG\r\n\x1a\n");
	put_chunk(b, "IHDR", header, 13);
}

static void make_png(struct bytes *b)
{
	static uint8_t noise[100000];
	put_png_start(b, 640, 480);
	put_chunk(b, "tEXt", "Comment\0IEND", 12);
	put_chunk(b, "IDAT", noise, 70000); /* over the reader's window */
	put_chunk(b, "IDAT", noise, 300);
	put_chunk(b, "IEND", "", 0);
}

/* A progressive JPEG of two scans with an embedded "thumbnail" (a whole JPEG inside APP1), stuffed bytes, restart
 * markers and padding. */
static void make_jpeg(struct bytes *b)
{
	b->len = 0;
	PUT(b, "\xff\xd8\xff\xe1\x00\x0c"
	       "Exif\xff\xd8\xff\xd9\x00\x00");
	PUT(b, "\xff\xff\xff\xdb\x00\x04\x00\x01");
	PUT(b, "\xff\xc2\x00\x0b\x08\x01\xe0\x02\x80\x01\x01\x11\x00"); /* 640 x 480 */
	PUT(b, "\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00");
	for (int i = 0; i < 20000; i++)
		PUT(b, "scan\xff\x00"
		       "data\xff\xd3");
	PUT(b, "\xff\xff\xff\xc4\x00\x03\x00");
	PUT(b, "\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00more\xff\xff\xd9");
}

static int file_of(const struct bytes *b)
{
	int fd = memfd_create("sniff", MFD_CLOEXEC);
	cr_assert(fd >= 0 && write(fd, b->data, b->len) == (ssize_t)b->len);
	return fd;
}

static enum sniff_verdict judge(const struct bytes *b, const char *name, struct sniff_image *image, struct error *err)
{
	int fd = file_of(b);
	err->text[0] = 0;
	enum sniff_verdict verdict = sniff_file(fd, name, image, err);
	close(fd);
	cr_expect_null(strchr(err->text, '\n'));
	return verdict;
}

static struct bytes b;

Test(sniff, names)
{
	static const struct {
		const char *name;
		enum sniff_name kind;
	} cases[] = {{"a.png", SNIFF_NAME_IMAGE}, {"a.PnG", SNIFF_NAME_IMAGE}, {"a b.JPEG", SNIFF_NAME_IMAGE},
		{"a.tar.jpg", SNIFF_NAME_IMAGE}, {".a.png", SNIFF_NAME_JUNK}, {"._a.png", SNIFF_NAME_JUNK},
		{".DS_Store", SNIFF_NAME_JUNK}, {"Thumbs.db", SNIFF_NAME_JUNK}, {"desktop.ini", SNIFF_NAME_JUNK},
		{"a.png~", SNIFF_NAME_JUNK}, {"a.png.part", SNIFF_NAME_JUNK}, {"a.tmp", SNIFF_NAME_JUNK},
		{"a.crdownload", SNIFF_NAME_JUNK}, {".a.png.Xy12Zw", SNIFF_NAME_JUNK}, {"", SNIFF_NAME_JUNK},
		{"a.webp", SNIFF_NAME_UNSUPPORTED}, {"a.HEIC", SNIFF_NAME_UNSUPPORTED},
		{"a.tiff", SNIFF_NAME_UNSUPPORTED}, {"a.txt", SNIFF_NAME_OTHER}, {"png", SNIFF_NAME_OTHER},
		{"a", SNIFF_NAME_OTHER}, {"part", SNIFF_NAME_OTHER}, {"a.png.filepart", SNIFF_NAME_JUNK},
		{"a.png.3fa1.partial", SNIFF_NAME_JUNK}, {"a.png.Download", SNIFF_NAME_JUNK},
		{"a.opdownload", SNIFF_NAME_JUNK}, {"a.png.!sync", SNIFF_NAME_JUNK}, {"a.png.bak", SNIFF_NAME_JUNK},
		{"a.orig", SNIFF_NAME_JUNK}, {"a.png.swp", SNIFF_NAME_JUNK}, {"a.png.~1~", SNIFF_NAME_JUNK},
		{"a.png_original", SNIFF_NAME_JUNK}, {"a_original", SNIFF_NAME_OTHER},
		{"the_original.png", SNIFF_NAME_IMAGE}, {"a.png.Xy12Zq", SNIFF_NAME_JUNK},
		{"a.jpeg.k3mn9a", SNIFF_NAME_JUNK}, {"a.png.medium", SNIFF_NAME_OTHER},
		{"a.png.240131", SNIFF_NAME_OTHER}, {"a.png.Xy12Z", SNIFF_NAME_OTHER}, {"a.Xy12Zq", SNIFF_NAME_OTHER},
		{"a.png.1", SNIFF_NAME_OTHER}, {"a.tmpl", SNIFF_NAME_OTHER}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		cr_expect_eq(sniff_name(cases[i].name), cases[i].kind, "%s", cases[i].name);
}

Test(sniff, folders)
{
	static const char *const junk[] = {".~tmp~", ".Trash-0", ".Trashes", ".stversions", "@eaDir", "#recycle",
		"#Recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information", "__MACOSX", ".rsync-partial",
		"x.partial", "a.png.download", "d~"},
				 *const others[] = {
					 "d", "Trash", "a.png", "recycle", "lost", "2024.orig", "partial", "tmp"};
	for (size_t i = 0; i < sizeof junk / sizeof *junk; i++)
		cr_expect(sniff_folder_is_junk(junk[i]), "%s", junk[i]);
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		cr_expect_not(sniff_folder_is_junk(others[i]), "%s", others[i]);
}

/* Zeros instead of the end marker, as generate reads it too: so many that no decoder reads beyond them, and only in a scan. */
Test(sniff, zeros_instead_of_the_end)
{
	struct error err;
	struct sniff_image image = {0};
	make_jpeg(&b);
	size_t whole = b.len;
	b.len -= 2;
	memset(b.data + b.len, 0, 5000);
	for (int zeros = 0; zeros < 5000; zeros = 2 * zeros + 1) {
		b.len = whole - 2 + zeros;
		cr_expect_eq(
			judge(&b, "a.jpg", &image, &err), zeros < 16 ? SNIFF_TRUNCATED : SNIFF_PADDED, "%d", zeros);
	}
	cr_expect(image.width == 640 && image.height == 480);
	b.data[b.len - 1] = 1;
	cr_expect_eq(judge(&b, "a.jpg", &image, &err), SNIFF_TRUNCATED);
	b.len = 20;
	memset(b.data + b.len, 0, 5000);
	b.len += 5000;
	cr_expect_eq(judge(&b, "a.jpg", &image, &err), SNIFF_REFUSED, "zeros outside of a scan");
	make_png(&b);
	memset(b.data + b.len - 12, 0, 12 + 5000);
	b.len += 5000;
	cr_expect_neq(judge(&b, "a.png", &image, &err), SNIFF_PADDED);
}

Test(sniff, whole_images_under_any_name)
{
	static const char *const names[] = {"a.png", "a.JPG", "photo", "a.webp", "a.txt"};
	struct error err;
	for (int format = 0; format < 2; format++) {
		format ? make_jpeg(&b) : make_png(&b);
		for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
			struct sniff_image image = {0};
			cr_expect_eq(judge(&b, names[i], &image, &err), SNIFF_WHOLE, "%s: %s", names[i], err.text);
			cr_expect_str_eq(image.format, format ? "JPEG" : "PNG");
			cr_expect(image.width == 640 && image.height == 480);
		}
		cr_expect_eq(judge(&b, ".a.png", NULL, &err), SNIFF_IGNORED);
		PUT(&b, "rubbish after the end");
		cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_WHOLE, "%s", err.text);
	}
}

/* Every cut of a whole file, near the interesting places each byte, is truncated; an empty one is nothing. */
Test(sniff, every_cut_is_truncated)
{
	struct error err;
	for (int format = 0; format < 2; format++) {
		format ? make_jpeg(&b) : make_png(&b);
		size_t whole = b.len;
		for (size_t cut = 1; cut < whole; cut += cut < 200 || cut > whole - 700 ? 1 : 997) {
			b.len = cut;
			struct sniff_image image = {.width = 7};
			cr_assert_eq(judge(&b, "a.png", &image, &err), SNIFF_TRUNCATED,
				"format %d cut at %zu of %zu: %s", format, cut, whole, err.text);
			cr_assert_eq(image.width, 7, "written without success");
		}
		cr_expect_not_null(strstr(err.text, "the image is truncated: "), "%s", err.text);
		b.len = 0;
		cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_IGNORED);
	}
}

Test(sniff, formats_that_we_cannot_read_are_named)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *name, *format;
	} cases[] = {
		{"RIFF\x10\0\0\0WEBPVP8 ", 16, "a.webp", "WebP"},
		{"RIFF\x10\0\0\0WEBPVP8 ", 16, "a.png", "WebP"},
		{"RIFF\x10\0\0\0WEBPVP8 ", 16, "data", "WebP"},
		{"\0\0\0\x18"
		 "ftypheic\0\0\0\0",
			16, "IMG_1.HEIC", "HEIC"},
		{"\0\0\0\x18"
		 "ftypavif\0\0\0\0",
			16, "x", "AVIF"},
		{"GIF89a\1\0\1\0", 10, "x.jpg", "GIF"},
		{"II*\0\x08\0\0\0", 8, "x", "TIFF"},
		{"nonsense", 8, "x.tif", "TIFF"},
		{"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", 18, "x", "BMP"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error err;
		char said[128];
		b.len = 0;
		put(&b, cases[i].bytes, cases[i].len);
		cr_expect_eq(judge(&b, cases[i].name, NULL, &err), SNIFF_REFUSED, "%s as %s", cases[i].format,
			cases[i].name);
		snprintf(said, sizeof said, "%s images are not supported: save the picture as PNG or JPEG",
			cases[i].format);
		cr_expect_str_eq(err.text, said);
	}
}

Test(sniff, other_files_are_ignored_unless_they_claim_to_be_images)
{
	struct error err;
	b.len = 0;
	PUT(&b, "BM is how this text begins, and it goes on.");
	cr_expect_eq(judge(&b, "notes.txt", NULL, &err), SNIFF_IGNORED);
	cr_expect_eq(judge(&b, "notes", NULL, &err), SNIFF_IGNORED);
	cr_expect_eq(judge(&b, "notes.Png", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(
		err.text, "not an image: the name ends in .Png, but the file begins neither as PNG nor as JPEG");
	/* Space reserved by a writer that has not come to it. */
	memset(b.data, 0, 4096);
	b.len = 4096;
	cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_TRUNCATED);
	cr_expect_eq(judge(&b, "a.bin", NULL, &err), SNIFF_IGNORED);
}

Test(sniff, broken_and_oversized_images_are_refused)
{
	struct error err;
	put_png_start(&b, 20000, 20000);
	cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(err.text, "the image is too large: 20000 x 20000 pixels are over 100 megapixels");
	put_png_start(&b, 0, 5);
	cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_REFUSED);
	put_png_start(&b, 4, 4);
	put_chunk(&b, "IEND", "", 0);
	cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(err.text, "broken PNG: it has no image data (IDAT)");
	put_png_start(&b, 4, 4);
	put_chunk(&b, "IDAT", "1234", 4);
	PUT(&b, "\0\0\0\4\1\2\3\4????");
	cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(err.text, "broken PNG: chunk 3 is not one");

	b.len = 0;
	PUT(&b, "\xff\xd8\xff\xda\x00\x04\x00\x00");
	cr_expect_eq(judge(&b, "a.jpg", NULL, &err), SNIFF_REFUSED, "a scan before any frame");
	b.len = 0;
	PUT(&b, "\xff\xd8\xff\xe0\x00\x04\x00\x00\x12\x34");
	cr_expect_eq(judge(&b, "a.jpg", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(err.text, "broken JPEG: no marker at byte 8");
	b.len = 0;
	PUT(&b, "\xff\xd8\xff\xe0\x00\x01");
	cr_expect_eq(judge(&b, "a.jpg", NULL, &err), SNIFF_REFUSED, "a segment shorter than its length field");
}

Test(sniff, floods_of_chunks_and_scans_end)
{
	struct error err;
	static uint8_t chunk[12] = {0, 0, 0, 0, 't', 'E', 'X', 't'};
	int fd = memfd_create("sniff", MFD_CLOEXEC);
	put_png_start(&b, 4, 4);
	cr_assert_eq(write(fd, b.data, b.len), (ssize_t)b.len);
	FILE *file = fdopen(fd, "w");
	for (int i = 0; i < SNIFF_MAX_CHUNKS + 1; i++)
		fwrite(chunk, 1, sizeof chunk, file);
	fflush(file);
	cr_expect_eq(sniff_file(fd, "a.png", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(err.text, "the PNG has over 100000 chunks");
	fclose(file);

	make_jpeg(&b);
	b.len -= 2; /* its EOI */
	for (int i = 0; i < SNIFF_MAX_SCANS; i++)
		PUT(&b, "\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00x");
	cr_expect_eq(judge(&b, "a.jpg", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(err.text, "the JPEG has over 500 scans");
}

/* A chunk length of 2 GB skips to beyond the end: nothing is read there, and the size limit is on the whole file. */
Test(sniff, sizes_do_not_overflow)
{
	struct error err;
	put_png_start(&b, 4, 4);
	PUT(&b, "\x7f\xff\xff\xff"
		"IDAT");
	cr_expect_eq(judge(&b, "a.png", NULL, &err), SNIFF_TRUNCATED);
	int fd = file_of(&b);
	cr_assert_eq(ftruncate(fd, (off_t)SNIFF_MAX_BYTES + 1), 0);
	cr_expect_eq(sniff_file(fd, "a.png", NULL, &err), SNIFF_REFUSED);
	cr_expect_str_eq(err.text, "the image is too large: 1073741825 bytes are over 1 GiB");
	close(fd);
	cr_expect_eq(sniff_file(fd, "a.png", NULL, &err), SNIFF_IO_ERROR);
}
