# Interactive bash. The file has no drop-ins, so all of it is written here.
[ -z "${PS1-}" ] && return

shopt -s checkwinsize
PS1='\u@\h:\w\$ '

# New files are private, in shells that do not read /etc/profile too.
umask 027
