export DISTRO_NAME=debian
export DIB_RELEASE=${DIB_RELEASE:-trixie}
export DIB_DEBIAN_COMPONENTS=${DIB_DEBIAN_COMPONENTS:-main}
# The dpkg element's own package cache is emptied by every build: see TEETH_APT_ARCHIVES.
export DIB_APT_LOCAL_CACHE=0
export TEETH_APT_ARCHIVES=${TEETH_APT_ARCHIVES:-}
export DEBIAN_FRONTEND=noninteractive
