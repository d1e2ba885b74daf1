# Arguments: folder, name, process in the switch's network namespace, address, gateway,
# a store of images to begin with (or nothing), the operator's public key, a user.
folder=$1 name=$2 switch=$3 address=$4 gateway=$5 store=$6 public=$7 user=$8
port=port${address##*.} homes=/home

hostname "$name"
ip link set lo up
ip link add eth0 type veth peer name "$port" netns "$switch"
ip addr add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
nsenter -t "$switch" -n ip link set "$port" master br0 up

# Its disk is memory: no test waits for another one, and it goes by itself.
mkdir "$folder/disk"
mount -t tmpfs -o mode=755 tmpfs "$folder/disk"
cd "$folder/disk"
mkdir -p etc opt root/.ssh "home/$user/.ssh" tmp log lib/docker lib/etcd
chmod 700 root root/.ssh "home/$user" "home/$user/.ssh" lib/etcd
chmod 1777 tmp
# What programs need of our own, which holds thousands of files.
find /etc -maxdepth 1 ! -type d -exec cp -a -t etc {} +
for it in alternatives default ld.so.conf.d pam.d security; do
    [ ! -d "/etc/$it" ] || cp -a "/etc/$it" etc/
done
mkdir etc/kubernetes etc/ssh etc/ssh/keys
[ -z "$store" ] || cp -a "$store/." lib/docker/

# Accounts: those of this machine, root with no lock on it, and the user.
docker=$(sed -n 's/^docker:[^:]*:\([0-9]*\):.*/\1/p' etc/group)
[ -n "$docker" ] || { docker=2375; echo "docker:x:$docker:" >>etc/group; }
sed -i "/^$user:/d" etc/passwd etc/group etc/shadow
sed -i 's/^root:[^:]*:/root:*:/' etc/shadow
sed -i "s/^\(docker:[^:]*:[0-9]*:\).*/\1$user/" etc/group
echo "$user:x:2376:2376::$homes/$user:/bin/sh" >>etc/passwd
echo "$user:x:2376:" >>etc/group
echo "$user:*:19000:0:99999:7:::" >>etc/shadow
echo "$public" >root/.ssh/authorized_keys
echo "$public" >"home/$user/.ssh/authorized_keys"
chown -R 2376:2376 "home/$user"
chown -R 0:0 root
echo "127.0.0.1 localhost $name" >etc/hosts

cat >etc/ssh/sshd_config <<END
Port 22
ListenAddress 0.0.0.0
HostKey /etc/ssh/keys/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
MaxStartups 200
MaxSessions 200
LogLevel VERBOSE
Subsystem sftp internal-sftp
END

mount --bind "$folder/ssh" etc/ssh/keys
mount --rbind etc /etc
mount -t tmpfs -o mode=755,size=64m tmpfs /etc/kubernetes
mount --bind opt /opt
mount --bind root /root
mount --bind home /home
mount --bind lib /var/lib
mount --bind log /var/log
: >"$folder/ready"
mount --bind tmp /tmp
cd /
exec sleep infinity
