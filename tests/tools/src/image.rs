//! Writes container images without Docker: one archive that is an OCI image layout (`oci-layout`, `index.json`) for containerd and
//! skopeo, and has the `manifest.json` of `docker save` for `docker load` and `crane push`. The same files give the same bytes:
//! entries are sorted, belong to root and carry no times.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// The contents and options of an image.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Name with a tag, `localhost/lb-operator/speaker:0.1.0`. Without a registry it belongs to Docker Hub.
    pub name: String,
    /// Files, by their path in the image.
    pub files: BTreeMap<PathBuf, PathBuf>,
    /// Program and its arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, which a pod may replace.
    pub command: Vec<String>,
    /// Variables, besides PATH.
    pub env: BTreeMap<String, String>,
    /// Numbers of user and group, `65532:65532`; root if empty.
    pub user: String,
    /// Labels, which are also annotations of the manifest.
    pub labels: BTreeMap<String, String>,
}

impl Image {
    /// Adds all files below a directory, under the paths that they have in it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn add_tree(&mut self, root: &Path) -> anyhow::Result<()> {
        let mut queue = vec![root.to_owned()];
        while let Some(directory) = queue.pop() {
            for entry in
                std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?
            {
                let path = entry?.path();
                // An empty directory is kept: programs may expect it.
                if path.is_dir() && !path.is_symlink() && std::fs::read_dir(&path)?.next().is_some() {
                    queue.push(path);
                } else {
                    let inside = Path::new("/").join(path.strip_prefix(root)?);
                    self.files.insert(inside, path);
                }
            }
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When a file cannot be read or the archive cannot be written.
    pub fn write(&self, archive: &Path) -> anyhow::Result<()> {
        write_all(std::slice::from_ref(self), archive)
    }

    /// Its entries in `index.json` and `manifest.json`. The blobs that they refer to are added to `blobs`.
    fn entries(
        &self,
        layer: &Layer,
        blobs: &mut BTreeMap<String, Vec<u8>>,
    ) -> anyhow::Result<(Value, Value)> {
        let config = serde_json::to_vec(&json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": self.runtime_config(),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created_by": "lb-operator image"}],
        }))?;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.packed)],
        });
        if !self.labels.is_empty() {
            manifest["annotations"] = json!(self.labels);
        }
        let manifest = serde_json::to_vec(&manifest)?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({"architecture": architecture()?, "os": "linux"});
        entry["annotations"] = json!({
            "io.containerd.image.name": self.full_name(),
            "org.opencontainers.image.ref.name": self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
        });
        let [config, layer, _] = [&config, &layer.packed, &manifest].map(|blob| {
            let path = format!("blobs/sha256/{}", hexadecimal(blob));
            blobs.entry(path.clone()).or_insert_with(|| blob.clone());
            path
        });
        let docker = json!({"Config": config, "RepoTags": [self.name], "Layers": [layer]});
        Ok((entry, docker))
    }

    fn runtime_config(&self) -> Value {
        let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        env.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        let mut config = json!({"Env": env, "WorkingDir": "/"});
        for (key, value) in [
            ("Entrypoint", json!(self.entrypoint)),
            ("Cmd", json!(self.command)),
            ("User", json!(self.user)),
            ("Labels", json!(self.labels)),
        ] {
            let is_empty = value.as_array().is_some_and(Vec::is_empty)
                || value.as_str().is_some_and(str::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            if !is_empty {
                config[key] = value;
            }
        }
        config
    }

    /// The name with its registry, as containerd keeps it.
    fn full_name(&self) -> String {
        match self.name.split_once('/') {
            Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => {
                self.name.clone()
            }
            Some(_) => format!("docker.io/{}", self.name),
            None => format!("docker.io/library/{}", self.name),
        }
    }

    fn layer(&self) -> anyhow::Result<Layer> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut tar = Builder::new(Vec::new());
        for (inside, source) in &self.files {
            let path = inside.strip_prefix("/").unwrap_or(inside);
            let failed = || format!("put {} into the image", source.display());
            let metadata = std::fs::symlink_metadata(source).with_context(failed)?;
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_symlink() {
                let mut header = header(0, 0o777);
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, std::fs::read_link(source)?)
                    .with_context(failed)?;
            } else if metadata.is_dir() {
                let mut header = header(0, mode);
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, path, std::io::empty())
                    .with_context(failed)?;
            } else {
                let file = std::fs::File::open(source).with_context(failed)?;
                append(&mut tar, path, file, metadata.len(), mode).with_context(failed)?;
            }
        }
        let bytes = tar.into_inner()?;
        Ok(Layer {
            diff_id: digest(&bytes),
            packed: gzip(&bytes)?,
        })
    }
}

/// The packed files of an image.
struct Layer {
    /// Digest of the uncompressed archive.
    diff_id: String,
    packed: Vec<u8>,
}

/// Writes several images into one archive. Blobs that they share are in it once.
///
/// # Errors
/// As [`Image::write`].
pub fn write_all(images: &[Image], archive: &Path) -> anyhow::Result<()> {
    let mut files = BTreeMap::new();
    let (mut oci, mut docker) = (Vec::new(), Vec::new());
    let mut layers: Vec<(&BTreeMap<PathBuf, PathBuf>, Layer)> = Vec::new();
    for image in images {
        if !layers.iter().any(|(of, _)| **of == image.files) {
            layers.push((&image.files, image.layer()?));
        }
        if let Some((_, layer)) = layers.iter().find(|(of, _)| **of == image.files) {
            let (oci_entry, docker_entry) = image.entries(layer, &mut files)?;
            oci.push(oci_entry);
            docker.push(docker_entry);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": oci,
    });
    files.insert("index.json".to_owned(), serde_json::to_vec(&index)?);
    files.insert("manifest.json".to_owned(), serde_json::to_vec(&docker)?);
    files.insert(
        "oci-layout".to_owned(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    );
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in files {
        append(
            &mut tar,
            Path::new(&path),
            bytes.as_slice(),
            bytes.len() as u64,
            0o644,
        )?;
    }
    // Renamed when complete, so that no reader sees half of it.
    let unfinished = archive.with_extension("part");
    std::fs::write(&unfinished, tar.into_inner()?)
        .with_context(|| format!("write {}", unfinished.display()))?;
    std::fs::rename(&unfinished, archive).with_context(|| format!("write {}", archive.display()))
}

/// The digest of the manifest in an archive from [`Image::write`]. A registry has the same digest if the image is pushed as it is,
/// for example by `skopeo copy oci-archive:…`; a push that reads `manifest.json` writes another manifest.
///
/// # Errors
/// When the archive cannot be read or holds no image.
pub fn digest_of(archive: &Path) -> anyhow::Result<String> {
    let failed = || format!("read {}", archive.display());
    let file = std::fs::File::open(archive).with_context(failed)?;
    for entry in tar::Archive::new(file).entries().with_context(failed)? {
        let mut entry = entry.with_context(failed)?;
        if entry.path().with_context(failed)?.as_ref() == Path::new("index.json") {
            let index: Value = serde_json::from_reader(&mut entry).with_context(failed)?;
            let digest = index.pointer("/manifests/0/digest").and_then(Value::as_str);
            return digest.map(str::to_owned).with_context(failed);
        }
    }
    bail!(
        "{} holds no image: write it with `image build` or `image pack`",
        archive.display()
    )
}

fn header(size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(
    tar: &mut Builder<Vec<u8>>,
    path: &Path,
    data: impl std::io::Read,
    size: u64,
    mode: u32,
) -> anyhow::Result<()> {
    tar.append_data(&mut header(size, mode), path, data)?;
    Ok(())
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    // No time and no name in its header.
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The machine's architecture, as images name it.
fn architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("unsupported architecture {other}: build on x86_64 or aarch64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(directory: &Path) -> Image {
        std::fs::create_dir_all(directory.join("tree/etc")).unwrap();
        std::fs::write(directory.join("tree/etc/b"), "b").unwrap();
        std::fs::write(directory.join("tree/a"), "a").unwrap();
        let mut image = Image {
            name: "localhost/lb-operator/speaker:0.1.0".to_owned(),
            user: "1:1".to_owned(),
            ..Image::default()
        };
        image.entrypoint = vec!["/a".to_owned()];
        image.add_tree(&directory.join("tree")).unwrap();
        image
    }

    #[test]
    fn equal_files_give_equal_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let archives = [&one, &two].map(|directory| {
            let archive = directory.path().join("image.tar");
            image(directory.path()).write(&archive).unwrap();
            std::fs::read(archive).unwrap()
        });
        assert!(archives[0] == archives[1]);
    }

    /// The files in an archive, by their path.
    fn contents(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
        let read = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (path, bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn blobs_are_named_by_their_digest() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("image.tar");
        image(directory.path()).write(&archive).unwrap();
        let mut blobs = 0;
        for (path, bytes) in contents(&archive) {
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(name, hexadecimal(&bytes));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }

    #[test]
    fn manifest_json_names_config_and_layers_in_the_archive() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("image.tar");
        image(directory.path()).write(&archive).unwrap();
        let files = contents(&archive);
        let manifest = parse(&files["manifest.json"]);
        assert_eq!(
            manifest[0]["RepoTags"],
            json!(["localhost/lb-operator/speaker:0.1.0"])
        );
        let config = parse(&files[manifest[0]["Config"].as_str().unwrap()]);
        assert_eq!(config["config"]["Entrypoint"], json!(["/a"]));
        let layers = manifest[0]["Layers"].as_array().unwrap();
        assert_eq!(
            layers.len(),
            config["rootfs"]["diff_ids"].as_array().unwrap().len()
        );
        for layer in layers {
            let packed = &files[layer.as_str().unwrap()];
            let mut unpacked = Vec::new();
            std::io::Read::read_to_end(
                &mut flate2::read::GzDecoder::new(packed.as_slice()),
                &mut unpacked,
            )
            .unwrap();
            assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&unpacked)]));
        }
    }

    #[test]
    fn images_with_equal_files_share_their_layer() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("images.tar");
        let one = image(directory.path());
        let mut other = one.clone();
        other.name = "localhost/lb-operator/speaker:0.2.0".to_owned();
        other.env = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
        write_all(&[one, other], &archive).unwrap();
        let files = contents(&archive);
        let blobs = files.keys().filter(|path| path.starts_with("blobs/")).count();
        assert_eq!(blobs, 5, "one layer, two configs and two manifests");
        let (index, docker) = (parse(&files["index.json"]), parse(&files["manifest.json"]));
        for (number, name) in [
            "localhost/lb-operator/speaker:0.1.0",
            "localhost/lb-operator/speaker:0.2.0",
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(
                index["manifests"][number]["annotations"]["io.containerd.image.name"],
                name
            );
            assert_eq!(docker[number]["RepoTags"][0], name);
        }
    }

    #[test]
    fn digest_of_an_archive_is_that_of_its_manifest() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("image.tar");
        image(directory.path()).write(&archive).unwrap();
        let digest = digest_of(&archive).unwrap();
        let manifest = parse(&contents(&archive)[&format!("blobs/{}", digest.replace(':', "/"))]);
        assert_eq!(
            manifest["mediaType"],
            "application/vnd.oci.image.manifest.v1+json"
        );
    }

    #[test]
    fn name_without_registry_belongs_to_docker_hub() {
        for (name, full) in [
            ("nginx:alpine", "docker.io/library/nginx:alpine"),
            ("team/app:1", "docker.io/team/app:1"),
            (
                "localhost/lb-operator/speaker:0.1.0",
                "localhost/lb-operator/speaker:0.1.0",
            ),
            ("localhost/app:1", "localhost/app:1"),
        ] {
            assert_eq!(
                Image {
                    name: name.to_owned(),
                    ..Image::default()
                }
                .full_name(),
                full
            );
        }
    }
}
