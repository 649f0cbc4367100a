# Shells of people: new files are private, and an idle shell ends after a quarter of an hour.
umask 027
if [ -n "${BASH_VERSION-}" ] && [ -z "${TMOUT-}" ]; then
  declare -xr TMOUT=900
fi
