/* libarchive is linked statically, and any of its writers asks for all of them. Of these, XAR alone
 * would bring an XML parser and ICU; nothing here writes XAR. */
#include <archive.h>
#include <errno.h>

int archive_write_set_format_xar(struct archive *a)
{
    archive_set_error(a, ENOSYS, "XAR is not supported");
    return ARCHIVE_FATAL;
}
