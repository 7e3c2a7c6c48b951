/* Preloaded into a tool: SG_IO on the file $TEETH_DEVICE goes to the drive behind the socket $TEETH_SOCKET.
 * A way to run real tools where the kernel has no SCSI; in the lab's machines the kernel does this itself. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/hdreg.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int whole(int fd, void *buffer, size_t size, int out)
{
	char *at = buffer;
	while (size) {
		ssize_t done = out ? write(fd, at, size) : read(fd, at, size);
		if (done <= 0)
			return -1;
		at += done;
		size -= done;
	}
	return 0;
}

static int is_ours(int fd)
{
	char link[64], path[PATH_MAX];
	const char *device = getenv("TEETH_DEVICE");
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t size = readlink(link, path, sizeof path - 1);
	if (size < 0 || !device)
		return 0;
	path[size] = 0;
	return !strcmp(path, device);
}

static int send_command(sg_io_hdr_t *h)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint32_t head[3] = {h->cmd_len, h->dxfer_direction == SG_DXFER_TO_DEV, h->dxfer_len}, reply[3];
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), bad;
	strncpy(address.sun_path, getenv("TEETH_SOCKET"), sizeof address.sun_path - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
		close(fd);
		errno = ENODEV;
		return -1;
	}
	bad = whole(fd, head, sizeof head, 1) || whole(fd, h->cmdp, h->cmd_len, 1)
		|| (head[1] && whole(fd, h->dxferp, h->dxfer_len, 1)) || whole(fd, reply, sizeof reply, 0);
	unsigned char sense[252];
	if (!bad && reply[1])
		bad = whole(fd, sense, reply[1], 0);
	if (!bad && reply[2])
		bad = whole(fd, h->dxferp, reply[2], 0);
	close(fd);
	if (bad) {
		errno = EIO;
		return -1;
	}
	h->status = reply[0];
	h->masked_status = reply[0] >> 1;
	h->host_status = 0;
	h->driver_status = reply[1] ? 8 : 0; /* DRIVER_SENSE */
	h->sb_len_wr = reply[1] < h->mx_sb_len ? reply[1] : h->mx_sb_len;
	if (h->sbp)
		memcpy(h->sbp, sense, h->sb_len_wr);
	h->resid = head[1] ? 0 : h->dxfer_len - reply[2];
	h->info = reply[0] ? SG_INFO_CHECK : 0;
	h->duration = 1;
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	static int (*real)(int, unsigned long, ...);
	va_list arguments;
	void *argument;
	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "ioctl");
	if (is_ours(fd)) {
		if (request == SG_IO)
			return send_command(argument);
		if (request == SG_GET_VERSION_NUM) {
			*(int *)argument = 30536;
			return 0;
		}
		if (request == HDIO_GETGEO) { /* hdparm asks where the device starts: at 0 */
			memset(argument, 0, sizeof(struct hd_geometry));
			return 0;
		}
	}
	return real(fd, request, argument);
}
