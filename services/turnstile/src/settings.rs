//! Every setting of the program, read once: default, then file, then environment, then flag.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh::auth::MeshKey;
use mesh::client::{BreakerSettings, EdgeSettings};
use mesh::config::Settings;
use mesh::tls::Tls;
use mesh::{Limits, Stores};
use tonic::transport::Endpoint;

use crate::Outcome;
use crate::cli::{Cli, UpOptions};
use crate::system::{CONTEXTS, EDGES};

/// What the program was told.
pub(crate) struct Config {
    /// Where the data is.
    pub(crate) data: PathBuf,
    /// Which stores are in a database.
    pub(crate) stores: Stores,
    /// Where to listen; each command has a default of its own.
    pub(crate) listen: Option<SocketAddr>,
    /// Where contexts of other processes are, by name.
    pub(crate) endpoints: HashMap<String, String>,
    /// By which contexts in different processes know each other.
    pub(crate) mesh_key: Option<MeshKey>,
    /// What the port shows, and others must.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Where health and metrics are to be had.
    pub(crate) admin: Admin,
    /// Where spans go.
    pub(crate) collector: Option<String>,
    /// Whether to begin without a catalogue.
    pub(crate) empty: bool,
    /// What to log.
    pub(crate) log: String,
    /// Whether clients may ask which services there are.
    pub(crate) reflection: bool,
    /// How much is taken on at once.
    pub(crate) limits: Limits,
    /// How old an order that waits for a callee must be to be taken for a dead one.
    pub(crate) sweep_after: Duration,
    /// The synchronous edges, by name.
    pub(crate) edges: HashMap<String, EdgeSettings>,
    /// Accounts and tokens.
    pub(crate) identity: identity::Settings,
    /// The payment provider.
    pub(crate) payment: payment::Settings,
    /// Mail and webhooks.
    pub(crate) notice: notice::Settings,
    /// The seats' side, when it is to be slow.
    pub(crate) musical: outerpark_musical::Settings,
    /// Holds and fees.
    pub(crate) reservation: outerpark_reservation::Settings,
}

/// The admin port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admin {
    /// There is none.
    Off,
    /// Here, or not at all.
    At(SocketAddr),
    /// Here, if another system on this machine has not been faster.
    Preferably(SocketAddr),
}

type Read = (Config, Settings);

/// Reads the settings; everything that is wrong is reported at once.
pub(crate) fn read(
    cli: &Cli,
    flags: Option<&UpOptions>,
) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let (config, settings) = read_all(cli, flags)?;
    settings.finish()?;
    Ok(config)
}

/// Shows every setting, its value, and who gave it.
pub(crate) fn show(cli: &Cli) -> Outcome {
    let (_, settings) = read_all(cli, None)?;
    let settings = settings.finish()?;
    let width = settings.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (name, value, by) in settings {
        out(format_args!("{name:width$}  {value}  ({by})"));
    }
    Ok(())
}

/// Standard output is for what was asked for; a reader that went away is no error.
pub(crate) fn out(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn read_all(
    cli: &Cli,
    flags: Option<&UpOptions>,
) -> Result<Read, Box<dyn std::error::Error + Send + Sync>> {
    let here = PathBuf::from("turnstile.toml");
    let file = cli.config.clone().or_else(|| here.exists().then_some(here));
    let text = match &file {
        Some(file) => {
            std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => String::new(),
    };
    // Read by the command line itself, and not settings of a context.
    let of_the_command_line = ["TURNSTILE_CONFIG", "TURNSTILE_TARGET", "TURNSTILE_MIGRATE_URL"];
    let environment =
        std::env::vars().filter(|(name, _)| !of_the_command_line.contains(&name.as_str()));
    #[cfg(test)]
    let environment = environment.filter(|(name, _)| !name.starts_with("TURNSTILE_TEST_"));
    let flags = flags.cloned().unwrap_or_default();
    let mut settings = Settings::default()
        .environment(environment)
        .file(&text)
        .flag("TURNSTILE_DATA", flags.data.as_ref().map(|data| data.display()))
        .flag("TURNSTILE_LISTEN", flags.listen)
        .flag("TURNSTILE_ADMIN_LISTEN", flags.admin_listen)
        .flag("TURNSTILE_EMPTY", flags.empty.then_some(true));
    let config = Config {
        data: settings.read("TURNSTILE_DATA", "./data".to_owned()).into(),
        stores: stores(&mut settings),
        listen: settings.read_with("TURNSTILE_LISTEN", "127.0.0.1:8088", |text| {
            text.parse().map_err(|_| "must be like 127.0.0.1:8088".to_owned())
        }),
        endpoints: settings
            .read_with("TURNSTILE_ENDPOINTS", "http://CONTEXT:50051", endpoints)
            .unwrap_or_default(),
        mesh_key: mesh_key(&mut settings),
        tls: tls(&mut settings),
        admin: admin(&mut settings),
        collector: settings.read_with("TURNSTILE_OTLP_ENDPOINT", "-", |text| {
            let web = text.starts_with("http://") || text.starts_with("https://");
            let valid = web && Endpoint::from_shared(text.to_owned()).is_ok();
            if valid {
                Ok(text.to_owned())
            } else {
                Err("must be like http://host:4317".to_owned())
            }
        }),
        empty: settings.read("TURNSTILE_EMPTY", false),
        log: settings.read("TURNSTILE_LOG", "info".to_owned()),
        reflection: settings.read("TURNSTILE_REFLECTION", true),
        limits: limits(&mut settings),
        sweep_after: Duration::from_secs(settings.read("TURNSTILE_SAGA_SWEEP_AFTER_SECONDS", 30)),
        edges: EDGES.iter().map(|name| ((*name).to_owned(), edge(&mut settings, name))).collect(),
        identity: identity::Settings::read(&mut settings),
        payment: payment::Settings::read(&mut settings),
        notice: notice::Settings::read(&mut settings),
        musical: outerpark_musical::Settings::read(&mut settings),
        reservation: outerpark_reservation::Settings::read(&mut settings),
    };
    Ok((config, settings))
}

/// `TURNSTILE_STORE` for all contexts, `TURNSTILE_STORE_HOMEMOVIE_APP` and so on for one.
fn stores(settings: &mut Settings) -> Stores {
    let mut store = |name: &str, default: &str| {
        settings.read_with(name, default, |text| match text {
            "files" => Ok(None),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Some(url.to_owned()))
            }
            _ => Err("must be files, or like postgres://user:password@host/database".to_owned()),
        })
    };
    let all = store("TURNSTILE_STORE", "files").flatten();
    let apart = CONTEXTS.into_iter().filter_map(|context| {
        let name = format!("TURNSTILE_STORE_{}", context.replace(['.', '-'], "_").to_uppercase());
        Some((context.to_owned(), store(&name, "as TURNSTILE_STORE")?))
    });
    let apart = apart.collect();
    Stores { all, apart }
}

/// `payment=http://payment:50051,mypage=http://10.0.0.1:50051|http://10.0.0.2:50051`.
fn endpoints(text: &str) -> Result<HashMap<String, String>, String> {
    let each = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    each.map(|one| {
        let (context, endpoint) =
            one.split_once('=').ok_or_else(|| format!("{one:?} is not CONTEXT=URL"))?;
        Ok((context.trim().to_owned(), endpoint.trim().to_owned()))
    })
    .collect()
}

/// `TURNSTILE_MESH_KEY`, or `TURNSTILE_MESH_KEY_FILE`.
fn mesh_key(settings: &mut Settings) -> Option<MeshKey> {
    let secret = settings.read_secret("TURNSTILE_MESH_KEY")?;
    let key = MeshKey::new(secret.reveal());
    if key.is_err() {
        settings.fault("TURNSTILE_MESH_KEY", "must have at least 32 characters");
    }
    key.ok()
}

/// `TURNSTILE_TLS_CERT_FILE` and so on.
fn tls(settings: &mut Settings) -> Option<Arc<Tls>> {
    let mut file = |what: &str| -> Option<PathBuf> {
        settings.read_file(&format!("TURNSTILE_TLS_{what}_FILE"))
    };
    let tls = match (file("CERT"), file("KEY"), file("CA")) {
        (None, None, None) => return None,
        (Some(certificate), Some(key), None) => Tls::one_way(&certificate, &key),
        (Some(certificate), Some(key), Some(authority)) => {
            Tls::mutual(&certificate, &key, &authority)
        }
        _ => {
            let what = "and TURNSTILE_TLS_KEY_FILE are needed both";
            settings.fault("TURNSTILE_TLS_CERT_FILE", what);
            return None;
        }
    };
    tls.map_err(|error| settings.fault("TURNSTILE_TLS_CERT_FILE", error)).ok().map(Arc::new)
}

fn admin(settings: &mut Settings) -> Admin {
    let default = SocketAddr::from(([127, 0, 0, 1], 9090));
    let given = settings.read_with("TURNSTILE_ADMIN_LISTEN", &default.to_string(), |text| {
        if text == "off" {
            return Ok(Admin::Off);
        }
        text.parse().map(Admin::At).map_err(|_| "must be like 127.0.0.1:9090, or off".to_owned())
    });
    given.unwrap_or(Admin::Preferably(default))
}

/// `TURNSTILE_MAX_CALLS` and so on.
fn limits(settings: &mut Settings) -> Limits {
    let default = Limits::default();
    let mut a_second = |whose: &str, default: u32| -> u32 {
        settings.read(&format!("TURNSTILE_MAX_CALLS_PER_{whose}"), default)
    };
    let calls_per_account = a_second("ACCOUNT", default.calls_per_account);
    let calls_per_address = a_second("ADDRESS", default.calls_per_address);
    let mut most = |what: &str, default: usize| -> usize {
        settings.read(&format!("TURNSTILE_MAX_{what}"), default)
    };
    Limits {
        connections: most("CONNECTIONS", default.connections),
        calls: most("CALLS", default.calls),
        calls_per_account,
        calls_per_address,
        streams: most("STREAMS", default.streams),
        streams_per_account: most("STREAMS_PER_ACCOUNT", default.streams_per_account),
        streams_per_address: most("STREAMS_PER_ADDRESS", default.streams_per_address),
        ..default
    }
}

/// `TURNSTILE_EDGE_HOMEMOVIE_APP_PAYMENT_TIMEOUT_MS` and so on (rule G-9).
fn edge(settings: &mut Settings, name: &str) -> EdgeSettings {
    let prefix =
        format!("TURNSTILE_EDGE_{}", name.replace("->", "_").replace('.', "_").to_uppercase());
    let EdgeSettings { timeout, bulkhead, breaker } = EdgeSettings::default();
    let mut millis = |what: &str, default: Duration| {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(settings.read(&format!("{prefix}_{what}_MS"), default))
    };
    let timeout = millis("TIMEOUT", timeout);
    let (window, open) =
        (millis("BREAKER_WINDOW", breaker.window), millis("BREAKER_OPEN", breaker.open));
    EdgeSettings {
        timeout,
        bulkhead: settings.read(&format!("{prefix}_BULKHEAD"), bulkhead),
        breaker: BreakerSettings {
            failure_percent: settings
                .read(&format!("{prefix}_BREAKER_FAILURE_PERCENT"), breaker.failure_percent),
            min_calls: settings.read(&format!("{prefix}_BREAKER_MIN_CALLS"), breaker.min_calls),
            window,
            open,
        },
    }
}

impl Config {
    /// As the mesh wants it.
    pub(crate) fn options(&self) -> mesh::Options {
        let edges = self.edges.clone();
        mesh::Options {
            mesh_key: self.mesh_key.clone(),
            port_tls: self.tls.clone(),
            reflection: self.reflection,
            limits: self.limits,
            stores: self.stores.clone(),
            sweep_after: self.sweep_after,
            edges: Arc::new(move |name| edges.get(name).copied().unwrap_or_default()),
            ..mesh::Options::new(&self.data)
        }
    }
}
