//! Real servers: an nginx for each, answering with its own name and the
//! address of the peer it sees.

use std::fs;
use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::netns::Netns;
use super::process::Process;

/// A running nginx; stopped on drop.
pub struct Nginx {
    _process: Process,
}

impl Nginx {
    /// Starts server `name` on `address` inside `netns`, with its files under
    /// `directory`, and waits until it accepts connections.
    pub fn start(netns: &Netns, directory: &Path, name: &str, address: SocketAddrV4) -> Self {
        Self::start_with(
            netns,
            directory,
            name,
            address,
            &format!("{address} backlog=4096"),
            "",
        )
    }

    /// The same over TLS, with the certificate and key `<name>.crt` and
    /// `<name>.key` of the directory.
    pub fn start_tls(netns: &Netns, directory: &Path, name: &str, address: SocketAddrV4) -> Self {
        let path = directory.display();
        let keys =
            format!("ssl_certificate {path}/{name}.crt;\nssl_certificate_key {path}/{name}.key;\n");
        Self::start_with(
            netns,
            directory,
            name,
            address,
            &format!("{address} ssl"),
            &keys,
        )
    }

    fn start_with(
        netns: &Netns,
        directory: &Path,
        name: &str,
        address: SocketAddrV4,
        listen: &str,
        keys: &str,
    ) -> Self {
        let prefix = directory.join(format!("nginx-{name}"));
        fs::create_dir(&prefix).expect("make nginx's directory");
        let path = prefix.display();
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log stderr;\n\
             worker_rlimit_nofile 20000;\nevents {{ worker_connections 19000; }}\n\
             http {{\n\
               access_log off;\n\
               keepalive_timeout 1h;\nkeepalive_requests 100000000;\n\
               client_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\n\
               fastcgi_temp_path {path}/fastcgi;\nuwsgi_temp_path {path}/uwsgi;\n\
               scgi_temp_path {path}/scgi;\n\
               server {{\n\
                 listen {listen};\n{keys}\
                 default_type text/plain;\n\
                 location / {{ return 200 \"{name} $remote_addr:$remote_port\\n\"; }}\n\
               }}\n\
             }}\n"
        );
        let file = prefix.join("nginx.conf");
        fs::write(&file, configuration).expect("write nginx's configuration");
        let arguments = [
            "-p".as_ref(),
            prefix.as_os_str(),
            "-c".as_ref(),
            file.as_os_str(),
        ];
        let mut process = Process::start(
            Some(netns),
            directory,
            &format!("nginx-{name}"),
            "nginx",
            &arguments,
        );
        process.until(Duration::from_secs(10), || {
            netns.run(|| TcpStream::connect(address)).ok()
        });
        Self { _process: process }
    }
}
