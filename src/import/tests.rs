use proptest::prelude::*;

use super::*;
use crate::config::Config;

/// The text with what is commented out filled in as it stands.
fn completed(toml: &str) -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let lines: Vec<String> = toml.lines().map(uncommented).collect();
    lines.join("\n")
}

/// The services of the completed configuration, one a line, and the notes.
fn summary(imported: &Imported) -> String {
    let config = Config::parse("imported", &completed(&imported.toml))
        .unwrap_or_else(|problem| panic!("{problem}\n{}", imported.toml))
        .config;
    let mut text = String::new();
    for service in &config.services {
        let servers: Vec<String> = service
            .servers
            .iter()
            .map(|server| format!("{}*{}", server.address, server.weight))
            .collect();
        let _ = writeln!(
            text,
            "{} {} {} {} [{}]",
            service.name,
            service.vip,
            service.scheduler.name(),
            service.pool,
            servers.join(" ")
        );
    }
    for note in &imported.notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

#[track_caller]
fn check(imported: &Imported, expected: &str) {
    let expected: String = expected
        .lines()
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    assert_eq!(summary(imported), expected);
}

#[test]
fn the_file_is_complete_but_for_ports_and_pool() {
    let imported =
        ipvsadm("-A -t 203.0.113.1:80 -s wrr\n-a -t 203.0.113.1:80 -r 198.18.1.1:8080 -b -w 3\n");
    assert_eq!(imported.notes, []);
    assert_eq!(
        imported.toml,
        r#"# Made by "fullgatectl import ipvsadm". Fill in what is commented out, then
# "fullgate check FILE". docs/configuration.md explains every key.

#[[port]]
#name = "wan"
#device = "0000:03:00.0"
#addresses = ["192.0.2.2/24"]
#gateway = "192.0.2.1"

#[[port]]
#name = "lan"
#device = "0000:03:00.1"
#addresses = ["198.18.0.2/16"]

#[[pool]]
#name = "default"
#addresses = ["198.18.0.10-198.18.0.13"]

[[service]]
name = "tcp-203.0.113.1:80"
vip = "203.0.113.1:80"
protocol = "tcp"
scheduler = "wrr"

[[service.server]]
address = "198.18.1.1:8080"
weight = 3
"#
    );
}

#[test]
fn ipvsadm_rules() {
    for (rules, expected) in [
        (
            "-A -t 203.0.113.1:443 -s wlc\n\
             -a -t 203.0.113.1:443 -r 198.18.1.1:443 -m -w 1\n\
             -a -t 203.0.113.1:443 -r 198.18.1.2:443 -m -w 0\n\
             -A -u 203.0.113.1:53 -s sh\n\
             -a -u 203.0.113.1:53 -r 198.18.1.3:53 -b -w 70000\n",
            "tcp-203.0.113.1:443 203.0.113.1:443 wlc default [198.18.1.1:443*1 198.18.1.2:443*0]
             udp-203.0.113.1:53 203.0.113.1:53 sh default [198.18.1.3:53*65535]
             2: NAT becomes FULLNAT: servers see local addresses instead of the clients', and need no route back through the gateway
             5: weight 70000 becomes 65535; weights are 0 to 65535",
        ),
        (
            "-A -t 203.0.113.1:80 -s rr -p 300 -M 255.255.255.0 --pe sip -b flag-1,flag-2\n\
             -a -t 203.0.113.1:80 -r 198.18.1.1:80 -g -w 1 -x 100 -y 50\n\
             -a -t 203.0.113.1:80 -r 198.18.1.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum\n",
            "tcp-203.0.113.1:80 203.0.113.1:80 rr default [198.18.1.1:80*1 198.18.1.2:80*1]
             1: persistence of 300 s left out; scheduler = \"sh\" keeps a client at its server for as long as the servers stay the same
             1: persistence engine sip left out
             1: scheduler flags flag-1,flag-2 left out
             2: direct routing becomes FULLNAT: each server has to listen on its own address, such as 198.18.1.1:80, needs the VIP on no interface, and sees local addresses instead of the clients'
             2: upper connection threshold 100 left out
             2: lower connection threshold 50 left out
             3: tunneling becomes FULLNAT: each server has to listen on its own address, such as 198.18.1.2:80, needs neither tunnel nor VIP, and sees local addresses instead of the clients'",
        ),
        (
            "-A -f 7 -s wrr\n\
             -a -f 7 -r 198.18.1.1:0 -g -w 1\n\
             -A -t [2001:db8::1]:80 -s wrr -6\n\
             -a -t [2001:db8::1]:80 -r [2001:db8::2]:80 -m -w 1\n\
             -A -t 203.0.113.9:0 -s wrr -p\n\
             -A --sctp-service 203.0.113.9:36412 -s rr\n\
             -A -t www:http -s wrr\n\
             -A -u 203.0.113.2:53 -s lc -o\n\
             -A -u 203.0.113.2:53 -s lc\n\
             -a -u 203.0.113.2:53 -r [2001:db8::2]:53 -b\n\
             -a -u 203.0.113.2:53 -r 198.18.1.1:53 -b\n\
             -a -u 203.0.113.2:53 -r 198.18.1.1:53 -b\n\
             -a -u 203.0.113.2:53 -r 203.0.113.2:5353 -b\n",
            "udp-203.0.113.2:53 203.0.113.2:53 wlc default [198.18.1.1:53*1]
             1: fwmark 7 left out: services are addresses and ports; write a [[service]] for each one that gets this mark
             2: fwmark 7 left out: services are addresses and ports; write a [[service]] for each one that gets this mark
             3: service left out: [2001:db8::1]:80 is IPv6, which is not supported yet
             4: left out: service [2001:db8::1]:80 was not carried over
             5: service left out: \"203.0.113.9:0\" has port 0; give a port from 1 to 65535
             6: SCTP service 203.0.113.9:36412 left out: only TCP and UDP are forwarded
             7: service left out: \"www:http\" is no address and port in numbers; names are not looked up
             8: scheduler lc becomes wlc, the same as long as all weights are equal
             8: one-packet scheduling left out: datagrams of one client port stay at one server until timeouts.udp
             9: service left out: the one on line 8 has this address too
             10: server left out: [2001:db8::2]:53 is IPv6, which is not supported yet
             12: server left out: line 11 of the same service has it already
             13: server left out: 203.0.113.2 is the gateway's own; a server on the gateway itself is not possible",
        ),
        (
            "#!/bin/sh\n\
             ipvsadm -C\n\
             /sbin/ipvsadm --add-service --tcp-service=203.0.113.1:80 --scheduler mh\n\
             ipvsadm -at 203.0.113.1:80 -r198.18.1.1:80 -mw5\n\
             ipvsadm --set 900 120 300\n\
             ipvsadm -D -t 203.0.113.1:81\n\
             ipvsadm --start-daemon master --mcast-interface eth0\n\
             iptables -L\n\
             -A -t 203.0.113.1:81 -s best -X y -p\n",
            "tcp-203.0.113.1:80 203.0.113.1:80 sh default [198.18.1.1:80*5]
             tcp-203.0.113.1:81 203.0.113.1:81 wrr default []
             3: scheduler mh becomes sh, which is a consistent hash of the client's address, too
             4: NAT becomes FULLNAT: servers see local addresses instead of the clients', and need no route back through the gateway
             5: timeouts left out; give them as [service.timeouts] where they matter
             6: command left out: only -A, -a and --add-laddr are carried over; save the rules with \"ipvsadm -Sn\"
             7: option --mcast-interface is not known; ignored
             7: connection synchronization has no counterpart
             8: not a rule of \"ipvsadm -Sn\": \"iptables\"; left out
             9: option -X is not known; ignored
             9: scheduler best becomes wrr, the default; it is not known here
             9: persistence left out; scheduler = \"sh\" keeps a client at its server for as long as the servers stay the same",
        ),
        (
            "dpip addr add 203.0.113.1/32 dev dpdk1\n\
             ipvsadm -A -t 203.0.113.1:80 -s rr -j enable\n\
             ipvsadm -a -t 203.0.113.1:80 -r 198.18.1.1:80 -b\n\
             ipvsadm --add-laddr -z 198.18.0.200 -t 203.0.113.1:80 -F dpdk0\n\
             ipvsadm -P -z 198.18.0.201 -t 203.0.113.1:80 -F dpdk0\n\
             ipvsadm -A -t 203.0.113.1:81 -s rr\n\
             ipvsadm -P -z 198.18.0.201 -t 203.0.113.1:81 -F dpdk0\n\
             ipvsadm -A -t 203.0.113.1:82 -s rr\n\
             ipvsadm -P -z 198.18.0.210 -t 203.0.113.1:82 -F dpdk0\n\
             ipvsadm -A -t 203.0.113.1:83 -s rr\n",
            "tcp-203.0.113.1:80 203.0.113.1:80 rr local-1 [198.18.1.1:80*1]
             tcp-203.0.113.1:81 203.0.113.1:81 rr local-1 []
             tcp-203.0.113.1:82 203.0.113.1:82 rr local-2 []
             tcp-203.0.113.1:83 203.0.113.1:83 rr local-1 []
             1: dpip command left out: addresses of interfaces and routes belong to [[port]] and [[route]]
             2: synproxy enable left out: it has no counterpart
             10: no local addresses: services without take those of pool local-1",
        ),
    ] {
        check(&ipvsadm(rules), expected);
    }
}

#[test]
fn keepalived_files() {
    for (file, expected) in [
        (
            "! Configuration File for keepalived\n\
             global_defs {\n    router_id LVS1\n}\n\
             vrrp_instance VI_1 {\n    virtual_ipaddress {\n        203.0.113.1\n    }\n}\n\
             virtual_server 203.0.113.1 80 {\n\
                 delay_loop 6\n\
                 lb_algo wrr\n\
                 lb_kind DR   # as ever\n\
                 persistence_timeout 50\n\
                 protocol TCP\n\
                 sorry_server 198.18.1.9 80\n\
                 real_server 198.18.1.1 80 {\n\
                     weight 3\n\
                     TCP_CHECK {\n            connect_timeout 3\n        }\n\
                 }\n\
                 real_server 198.18.1.2 80 {\n\
                     inhibit_on_failure\n\
                     HTTP_GET {\n            url {\n                path /\n                status_code 200\n            }\n        }\n\
                 }\n\
             }\n",
            "tcp-203.0.113.1:80 203.0.113.1:80 wrr default [198.18.1.1:80*3 198.18.1.2:80*1]
             2: global_defs left out
             5: vrrp_instance left out: fullgate has no VRRP; it answers for its addresses itself
             14: persistence of 50 s left out; scheduler = \"sh\" keeps a client at its server for as long as the servers stay the same
             16: sorry_server 198.18.1.9 80 left out: without a server, connections are reset at once
             17: direct routing becomes FULLNAT: each server has to listen on its own address, such as 198.18.1.1:80, needs the VIP on no interface, and sees local addresses instead of the clients'
             25: the check differs from that of a server before it; all servers of a service get the first one",
        ),
        (
            "include /etc/keepalived/conf.d/*.conf\n\
             $VIP=203.0.113.1\n\
             virtual_server group web\n{\n\
               protocol UDP\n\
               lvs_sched sed\n\
               lvs_method NAT\n\
               real_server 198.18.1.1 { weight 2 }\n\
             }\n\
             virtual_server_group web {\n\
               203.0.113.1 53\n\
               203.0.113.2-3 53\n\
               fwmark 9\n\
               2001:db8::1 53\n\
             }\n\
             virtual_server fwmark 3 { protocol TCP }\n\
             virtual_server group none { }\n\
             virtual_server 203.0.113.8 5060 { protocol SCTP }\n",
            "udp-203.0.113.1:53 203.0.113.1:53 wlc default [198.18.1.1:53*2]
             udp-203.0.113.2:53 203.0.113.2:53 wlc default [198.18.1.1:53*2]
             udp-203.0.113.3:53 203.0.113.3:53 wlc default [198.18.1.1:53*2]
             1: include /etc/keepalived/conf.d/*.conf left out: import that file on its own
             2: \"$VIP=203.0.113.1\" left out: definitions and conditions are not evaluated
             8: NAT becomes FULLNAT: servers see local addresses instead of the clients', and need no route back through the gateway
             11: scheduler sed becomes wlc, which differs only while there are few connections
             12: scheduler sed becomes wlc, which differs only while there are few connections
             13: fwmark 9 left out: services are addresses and ports; write a [[service]] for each one that gets this mark
             14: service left out: [2001:db8::1]:53 is IPv6, which is not supported yet
             16: fwmark 3 left out: services are addresses and ports; write a [[service]] for each one that gets this mark
             17: virtual_server left out: there is no group \"none\"
             18: virtual_server left out: protocol SCTP is not forwarded",
        ),
        (
            "local_address_group laddr_g1 {\n\
               198.18.0.200-202 dpdk0\n\
             }\n\
             virtual_server 203.0.113.1 80 {\n\
               lb_algo conhash\n\
               lb_kind FNAT\n\
               laddr_group_name laddr_g1\n\
               real_server 198.18.1.1 80 {\n\
                 weight many\n\
               }\n\
             }\n\
             }\n\
             virtual_server 203.0.113.1 81 {\n",
            "tcp-203.0.113.1:80 203.0.113.1:80 sh local-1 [198.18.1.1:80*1]
             tcp-203.0.113.1:81 203.0.113.1:81 wlc local-1 []
             4: scheduler conhash becomes sh, which is a consistent hash of the client's address, too
             9: the weight is no number; it becomes 1
             12: \"}\" closes nothing
             13: the block of \"virtual_server\" is not closed",
        ),
    ] {
        check(&keepalived(file), expected);
    }
}

/// The checks of the first service of a file with one virtual server of this
/// block, as TOML, where its servers are asked elsewhere, and the notes.
fn checks(block: &str) -> (String, Vec<String>, Vec<String>) {
    let file = format!("virtual_server 203.0.113.1 80 {{\nlb_kind FNAT\n{block}\n}}\n");
    let imported = keepalived(&file);
    let config = Config::parse("imported", &completed(&imported.toml))
        .unwrap_or_else(|problem| panic!("{problem}\n{}", imported.toml))
        .config;
    let (_, rest) = imported
        .toml
        .split_once("[service.health]\n")
        .unwrap_or_default();
    let keys = rest.split("\n\n").next().unwrap_or_default().to_owned();
    let servers = config.services[0].servers.iter();
    let asked = servers.filter_map(|server| server.health_address.map(|asked| asked.to_string()));
    let notes = imported.notes.iter().map(Note::to_string).collect();
    (keys, asked.collect(), notes)
}

#[test]
fn keepalived_checks_are_carried_over() {
    let rows: [(&str, &str, &[&str], &[&str]); 7] = [
        (
            "delay_loop 6\nretry 3\nreal_server 198.18.1.1 80 { TCP_CHECK { connect_timeout 3 } }",
            "check = \"tcp\"\ninterval = \"6000ms\"\ntimeout = \"3000ms\"\nrise = 1\nfall = 4",
            &[],
            &[],
        ),
        (
            "delay_loop 2.5\nvirtualhost www.example.com\ninhibit_on_failure\n\
             real_server 198.18.1.1 80 {\nHTTP_GET {\nconnect_port 81\nurl {\npath /health\n\
             status_code 200-204 301\ndigest 0a\n}\nnb_get_retry 2\n}\n}\n\
             real_server 198.18.1.2 80 {\nHTTP_GET {\nconnect_ip 198.18.1.9\nurl {\npath /health\n\
             status_code 200-204 301\n}\nnb_get_retry 2\n}\n}",
            "check = \"http\"\ninterval = \"2500ms\"\nrise = 1\nfall = 3\non-down = \"keep\"\n\
             path = \"/health\"\nhost = \"www.example.com\"\nstatus = \"200-204,301\"",
            &["198.18.1.1:81", "198.18.1.9:80"],
            &["12: digest left out; body = \"TEXT\" looks for a text in the answer"],
        ),
        (
            "real_server 198.18.1.1 443 {\nSSL_GET {\nurl { path / }\nurl { path /b }\n}\nMISC_CHECK { }\n}",
            "check = \"https\"\nrise = 1\npath = \"/\"\nstatus = \"200-299\"",
            &[],
            &[
                "6: url left out",
                "8: MISC_CHECK left out: checks are \"tcp\", \"http\", \"https\", \"udp\" and \"icmp\"",
            ],
        ),
        (
            "real_server 198.18.1.1 53 {\nUDP_CHECK {\npayload 0a 0b\nrequire_reply ff\n}\nPING_CHECK { }\n}",
            "check = \"udp\"\nrise = 1\nsend = \"hex:0a0b\"\nexpect = \"hex:ff\"",
            &[],
            &["8: PING_CHECK left out: a server has one check"],
        ),
        (
            "delay_loop 5\nreal_server 198.18.1.1 80 {\nPING_CHECK { connect_timeout 10 }\n}",
            "check = \"icmp\"\ninterval = \"5000ms\"\nrise = 1",
            &[],
            &["5: connect_timeout 10 left out: is 10s, and the interval 5s; give at most that"],
        ),
        (
            "delay_loop soon\nreal_server 198.18.1.1 80 {\nTCP_CHECK { connect_port 0\nconnect_ip 203.0.113.1 }\n}",
            "check = \"tcp\"\nrise = 1",
            &[],
            &[
                "3: delay_loop soon left out: \"soon\" is no duration; give numbers with units, such as \"250ms\" or \"2h4m\"",
                "5: connect_ip and connect_port left out: \"203.0.113.1:0\" has port 0; give a port from 1 to 65535",
            ],
        ),
        (
            "delay_loop 6\ninhibit_on_failure\nreal_server 198.18.1.1 80 {\nSMTP_CHECK { }\n}",
            "",
            &[],
            &[
                "3: delay_loop 6 left out: no server has a check that is carried over",
                "4: inhibit_on_failure left out: a server that fails keeps its connections",
                "6: SMTP_CHECK left out: checks are \"tcp\", \"http\", \"https\", \"udp\" and \"icmp\"",
            ],
        ),
    ];
    for (block, keys, asked, notes) in rows {
        let found = checks(block);
        assert_eq!(found.0.trim_end(), keys, "{block}");
        assert_eq!(found.1, asked, "{block}");
        assert_eq!(found.2, notes, "{block}");
    }
}

#[test]
fn many_services_raise_the_limit() {
    let rules: String = (0..5_000)
        .map(|ix| format!("-A -t 203.0.{}.{}:80\n", 100 + ix / 250, 1 + ix % 250))
        .collect();
    let imported = ipvsadm(&rules);
    assert_eq!(imported.services, 5_000);
    assert!(imported.toml.contains("[runtime]\nmax-services = 10000\n"));
    Config::parse("imported", &completed(&imported.toml)).expect("a configuration");
}

#[test]
fn deep_nesting_ends() {
    let imported = keepalived(&"a {".repeat(100_000));
    assert!(
        imported
            .notes
            .iter()
            .any(|note| note.text.contains("nested too deeply"))
    );
}

/// Words that matter to either reader, numbers and addresses among them.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "-A",
            "-a",
            "-t",
            "-u",
            "-f",
            "-r",
            "-b",
            "-m",
            "-g",
            "-i",
            "-w",
            "-p",
            "-s",
            "-P",
            "-z",
            "--set",
            "--pe",
            "-at",
            "--",
            "-",
            "203.0.113.1:80",
            "203.0.113.2:53",
            "198.18.1.1:80",
            "198.18.1.2:0",
            "198.18.0.7",
            "198.18.0.5-198.18.0.9",
            "[2001:db8::1]:80",
            "wlc",
            "dh",
            "{",
            "}",
            "\n",
            "\n",
            "\"",
            "#",
            "!",
            "TCP_CHECK",
            "HTTP_GET",
            "SSL_GET",
            "UDP_CHECK",
            "url",
            "path",
            "/ok",
            "status_code",
            "connect_ip",
            "connect_port",
            "connect_timeout",
            "delay_loop",
            "retry",
            "payload",
            "virtual_server",
            "virtual_server_group",
            "real_server",
            "local_address_group",
            "laddr_group_name",
            "group",
            "fwmark",
            "weight",
            "203.0.113.1",
            "198.18.1.5-7",
            "80",
            "protocol",
            "UDP",
            "lb_kind",
            "DR",
            "include",
            "g",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Any text has a reading, and what comes out is always accepted once it
    /// is completed.
    #[test]
    fn any_words_give_a_configuration(words in prop::collection::vec(word(), 0..120)) {
        let text = words.join(" ");
        for imported in [ipvsadm(&text), keepalived(&text)] {
            let parsed = Config::parse("imported", &completed(&imported.toml));
            prop_assert!(parsed.is_ok(), "{}\n{}", parsed.unwrap_err(), imported.toml);
            prop_assert!(imported.notes.is_sorted_by_key(|note| note.line));
        }
    }

    #[test]
    fn any_text_is_read(text in "(?s).{0,300}") {
        for imported in [ipvsadm(&text), keepalived(&text)] {
            prop_assert!(Config::parse("imported", &completed(&imported.toml)).is_ok());
        }
    }
}
