# Login shells: umask 027, and an idle shell ends after 15 minutes (TMOUT).
umask 027
if [ -n "${BASH_VERSION-}" ] && [ -z "${TMOUT-}" ]; then
  declare -xr TMOUT=900
fi
