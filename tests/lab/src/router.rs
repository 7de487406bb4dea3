//! A BGP router on the LAN, and a client behind it: BIRD in the switch's namespace, whose address 192.168.50.1 is the nodes'
//! default gateway.
//!
//! ```text
//!  <name>-wan ─── 198.51.100.0/24 ─── <name>-lan (BIRD, AS 65001) ─── 192.168.50.0/24 ─── nodes (AS 65000)
//!       .2                       .1                             .1
//! ```

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::layout::Machine;
use super::{Lab, network, run};

/// Limit for BIRD to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The router and the client behind it. Dropping it ends BIRD.
#[derive(Debug)]
pub struct Router {
    process: Child,
    control: PathBuf,
    lan: String,
    wan: String,
}

impl Lab {
    /// Starts a router that accepts sessions of AS 65000 from every node.
    ///
    /// # Errors
    /// When BIRD is missing or does not start.
    pub fn start_router(&self) -> anyhow::Result<Router> {
        let layout = &self.layout;
        if Command::new("bird").arg("--version").output().is_err() {
            bail!("bird is missing: run `make setup`");
        }
        let (lan, wan) = (layout.lan(), format!("{}-wan", layout.name));
        run(Command::new("ip").args(["netns", "add", &wan]))?;
        network::ip(
            &lan,
            &[
                format!("link add wan0 type veth peer name eth0 netns {wan}"),
                "address add 198.51.100.1/24 dev wan0".to_owned(),
                "address add 2001:db8:100::1/64 dev wan0 nodad".to_owned(),
                "link set wan0 up".to_owned(),
            ],
        )?;
        network::ip(
            &wan,
            &[
                "link set lo up".to_owned(),
                "address add 198.51.100.2/24 dev eth0".to_owned(),
                "address add 2001:db8:100::2/64 dev eth0 nodad".to_owned(),
                "link set eth0 up".to_owned(),
                "route add default via 198.51.100.1".to_owned(),
                "route add ::/0 via 2001:db8:100::1".to_owned(),
            ],
        )?;
        for (file, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            // Connections, not hosts, are spread over the nodes.
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
        ] {
            network::sysctl(&lan, file, value)?;
        }
        let neighbors: String = (1..=layout.nodes)
            .map(|number| {
                let node = Machine::Node(number);
                format!(
                    "protocol bgp {} from nodes {{ neighbor {}; }}\n",
                    node.name(),
                    node.address()
                )
            })
            .collect();
        let configuration = layout.write("bird.conf", &format!("{CONFIGURATION}{neighbors}"))?;
        let control = configuration.with_extension("ctl");
        let log = File::create(layout.log("bird")).context("create the log of bird")?;
        let process = Command::new("ip")
            .args(["netns", "exec", &lan, "bird", "-f", "-c"])
            .arg(&configuration)
            .arg("-s")
            .arg(&control)
            .arg("-P")
            .arg(configuration.with_extension("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start bird")?;
        let router = Router {
            process,
            control,
            lan,
            wan,
        };
        let start = Instant::now();
        while router.ask("show status").is_err() {
            if start.elapsed() > START_TIMEOUT {
                bail!("bird does not start: see {}", layout.log("bird").display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(router)
    }
}

/// The router's settings, without the neighbors. Sessions over IPv4 with both families; BFD for nodes that have it too;
/// nodes that are drained are used only if there is no other (RFC 8326).
const CONFIGURATION: &str = "log stderr all;
router id 192.168.50.1;
protocol device {}
protocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
protocol kernel { merge paths yes limit 16; ipv4 { import none; export all; }; }
protocol kernel { merge paths yes limit 16; ipv6 { import none; export all; }; }
filter graceful_shutdown { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; }
template bgp nodes {
  local 192.168.50.1 as 65001;
  neighbor as 65000;
  passive;
  hold time 240;
  error wait time 1, 3;
  graceful restart aware;
  bfd on;
  ipv4 { import filter graceful_shutdown; export none; };
  ipv6 { import filter graceful_shutdown; export none; };
}
";

impl Router {
    /// The answer of the router's console to a command.
    ///
    /// # Errors
    /// When BIRD does not answer.
    pub fn ask(&self, command: &str) -> anyhow::Result<String> {
        run(Command::new("birdc")
            .arg("-s")
            .arg(&self.control)
            .args(command.split_whitespace()))
    }

    /// The addresses of the next hops in the kernel's route to an address, sorted.
    ///
    /// # Errors
    /// When the routes cannot be read.
    pub fn next_hops(&self, address: &str) -> anyhow::Result<Vec<String>> {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let show = ["-n", &self.lan, family, "-j", "route", "show", address];
        let text = run(Command::new("ip").args(show))?;
        let routes: serde_json::Value = serde_json::from_str(&text).context("read the routes")?;
        let mut gateways = Vec::new();
        for route in routes.as_array().into_iter().flatten() {
            let hops = route["nexthops"].as_array().into_iter().flatten();
            let found = hops.chain([route]).filter_map(|hop| hop["gateway"].as_str());
            gateways.extend(found.map(str::to_owned));
        }
        gateways.sort();
        Ok(gateways)
    }

    /// The next hop of a connection from the client behind the router with this source port.
    ///
    /// # Errors
    /// When there is no route.
    pub fn path(&self, address: &str, source_port: u16) -> anyhow::Result<String> {
        let port = source_port.to_string();
        let text = run(Command::new("ip")
            .args(["-n", &self.lan, "-j", "route", "get", address])
            .args([
                "from",
                "198.51.100.2",
                "iif",
                "wan0",
                "ipproto",
                "tcp",
                "sport",
                &port,
                "dport",
                "80",
            ]))?;
        let routes: serde_json::Value = serde_json::from_str(&text).context("read the route")?;
        let gateway = routes[0]["gateway"].as_str().context("no gateway")?;
        Ok(gateway.to_owned())
    }

    /// Runs a shell command on the client behind the router, and returns its output.
    ///
    /// # Errors
    /// When the command fails.
    pub fn client(&self, text: &str) -> anyhow::Result<String> {
        run(Command::new("ip").args(["netns", "exec", &self.wan, "bash", "-c", text]))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // `ip netns exec` has become BIRD.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
