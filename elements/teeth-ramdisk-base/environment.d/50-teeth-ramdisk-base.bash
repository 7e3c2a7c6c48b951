# The kernel package would build an initrd of its own on installation, which takes half a minute.
export INITRD=No
export TEETH_OUTPUT=${TEETH_OUTPUT:-}
export TEETH_ZSTD_LEVEL=${TEETH_ZSTD_LEVEL:-12}
# The release day of Debian 13, when nothing else is asked for: any fixed time will do.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1754697600}
