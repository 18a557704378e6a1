//! The folder whose folders are namespaces: walked and changed by descriptors, never by a path twice.
//!
//! Some of its folders may belong to people who are trusted with no more than their namespace. So nothing in it is
//! followed: a symbolic link, a file with a second name or anything but a plain file or folder is refused. What was
//! looked at is what is read, and whoever could move a folder away must be one who may write in all of it.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::PolicyError;
use super::owners::{Owners, Writer};
use super::source::{EXTENSION, MAX_DEPTH, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES, SourceFile};
use crate::identity::{NameError, Namespace};

/// Folders that are made: everybody may read who calls whom.
const FOLDER_MODE: u32 = 0o755;
/// Files that are written.
const FILE_MODE: u32 = 0o644;

/// Nothing is followed, nothing waits for somebody at the other end, nothing is handed on.
const PLAIN: OFlag =
    OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC).union(OFlag::O_NOCTTY);

/// Reads every `*.cedar` file in and below the folder with the namespace that it belongs to; or every finding.
pub(super) fn read(
    tree: &Path,
    owners: Option<&Owners>,
) -> Result<Vec<SourceFile>, Vec<PolicyError>> {
    let mut walk = Walk { owners, ..Walk::default() };
    let opened = open_root(tree).map_err(|error| unreadable(tree, &error));
    let visited = opened.and_then(|root| {
        let found = file_of(&root, tree)?;
        walk.visit_folder(&root, &found, tree, &Namespace::root(), &[])
    });
    walk.findings.extend(visited.err());
    if walk.findings.is_empty() { Ok(walk.files) } else { Err(walk.findings) }
}

#[derive(Default)]
struct Walk<'a> {
    owners: Option<&'a Owners>,
    /// Looking somebody up costs more than all else.
    writers: HashMap<u32, Result<Writer, String>>,
    files: Vec<SourceFile>,
    findings: Vec<PolicyError>,
    folders: usize,
    bytes: u64,
    /// Something was too much: that is told, and the rest not looked at.
    stopped: bool,
}

impl Walk<'_> {
    /// `above`: who owns the folders above, any of whom could move this one away.
    fn visit_folder(
        &mut self,
        folder: &OwnedFd,
        found: &Metadata,
        path: &Path,
        scope: &Namespace,
        above: &[u32],
    ) -> Result<(), PolicyError> {
        self.check(path, found, scope, above)?;
        self.folders += 1;
        if self.folders > MAX_FILES {
            return Err(self
                .stop(path, format!("is one folder too many, at most {MAX_FILES} are looked at")));
        }
        if scope.segments().count() > MAX_DEPTH {
            let message = format!("lies more than {MAX_DEPTH} folders deep");
            return Err(PolicyError::about_file(path, message));
        }
        let mut above = above.to_vec();
        above.push(found.uid());
        for name in names(folder, path)? {
            if self.stopped {
                break;
            }
            let path = path.join(&name);
            let visited = self.visit(folder, &name, &path, scope, &above);
            self.findings.extend(visited.err());
        }
        Ok(())
    }

    fn visit(
        &mut self,
        folder: &OwnedFd,
        name: &str,
        path: &Path,
        scope: &Namespace,
        above: &[u32],
    ) -> Result<(), PolicyError> {
        let is_policy = Path::new(name).extension().is_some_and(|found| found == EXTENSION);
        let opened = match openat(folder, name, OFlag::O_RDONLY | PLAIN, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::ELOOP) => {
                let message = "is a symbolic link, which nothing in the policy tree may be";
                return Err(PolicyError::about_file(path, message));
            }
            // Something else's business, such as a socket; never a folder that cannot be opened.
            Err(_) if !is_policy && is_no_folder(folder, name) => return Ok(()),
            Err(error) => return Err(unreadable(path, &error.into())),
        };
        let found = file_of(&opened, path)?;
        if found.is_dir() {
            let below = format!("{}/{name}", scope.as_str().trim_end_matches('/'));
            let below = below.parse().map_err(|error: NameError| {
                PolicyError::about_file(path, format!("is no namespace: {error}"))
            })?;
            return self.visit_folder(&opened, &found, path, &below, above);
        }
        if !is_policy {
            return Ok(());
        }
        if !found.is_file() {
            return Err(PolicyError::about_file(path, "is no plain file"));
        }
        self.check(path, &found, scope, above)?;
        if self.owners.is_some() && found.nlink() != 1 {
            let message = "has a second name (a hard link), so nobody knows who put it here";
            return Err(PolicyError::about_file(path, message));
        }
        if self.files.len() >= MAX_FILES {
            return Err(
                self.stop(path, format!("is one file too many, at most {MAX_FILES} are read"))
            );
        }
        let text = text_of(File::from(opened), path)?;
        self.bytes += text.len() as u64;
        if self.bytes > MAX_TOTAL_BYTES {
            return Err(self.stop(
                path,
                format!("is too much: all together may have {MAX_TOTAL_BYTES} bytes"),
            ));
        }
        let scope = scope.clone();
        self.files.push(SourceFile { scope, ..SourceFile::new(path.display().to_string(), text) });
        Ok(())
    }

    fn stop(&mut self, path: &Path, message: String) -> PolicyError {
        self.stopped = true;
        PolicyError::about_file(path, message)
    }

    /// Whoever owns this or a folder above must be one who may write here, and nobody else may.
    fn check(
        &mut self,
        path: &Path,
        found: &Metadata,
        scope: &Namespace,
        above: &[u32],
    ) -> Result<(), PolicyError> {
        let Some(owners) = self.owners else { return Ok(()) };
        if found.mode() & 0o022 != 0 {
            let message = "may be written by more than its owner, so nobody knows who wrote it";
            return Err(PolicyError::about_file(path, message).with_help("chmod go-w"));
        }
        let mut check = |uid: u32| {
            let writer = self.writers.entry(uid).or_insert_with(|| Writer::of(uid));
            writer.as_ref().map_err(Clone::clone).and_then(|one| owners.check_writer(one, scope))
        };
        check(found.uid()).map_err(|problem| PolicyError::about_file(path, problem))?;
        above.iter().try_for_each(|uid| check(*uid)).map_err(|problem| {
            let help = "a folder above is theirs, and so the right to move this one away";
            PolicyError::about_file(path, problem).with_help(help)
        })
    }
}

/// Whether a name stands for something that is no folder, nor gone.
fn is_no_folder(folder: &OwnedFd, name: &str) -> bool {
    let found = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| {
        SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR
    })
}

/// Whole text of a policy file that is open.
pub(super) fn text_of(file: File, path: &Path) -> Result<String, PolicyError> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("is too long: a file may have {MAX_FILE_BYTES} bytes");
        return Err(PolicyError::about_file(path, message));
    }
    String::from_utf8(bytes)
        .map_err(|error| PolicyError::about_file(path, format!("is not UTF-8: {error}")))
}

/// Names in a folder, in order, without those that begin with a dot.
fn names(folder: &OwnedFd, path: &Path) -> Result<Vec<String>, PolicyError> {
    let unlisted = |error: Errno| unreadable(path, &error.into());
    let again = openat(folder, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | PLAIN, Mode::empty());
    let mut dir = Dir::from_fd(again.map_err(unlisted)?).map_err(unlisted)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = entry.map_err(unlisted)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
        if names.len() > MAX_FILES {
            let message = format!("holds more than {MAX_FILES} entries");
            return Err(PolicyError::about_file(path, message));
        }
    }
    names.sort();
    Ok(names)
}

fn file_of(opened: &OwnedFd, path: &Path) -> Result<Metadata, PolicyError> {
    let file = opened.try_clone().map(File::from);
    file.and_then(|file| file.metadata()).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> PolicyError {
    PolicyError::about_file(path, format!("cannot be read: {error}"))
}

/// Where the tree lies is its administrator's to say, links included.
fn open_root(tree: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(tree, flags, Mode::empty())?)
}

/// A place for a file in the tree.
#[derive(Debug, Clone)]
pub struct Place {
    tree: PathBuf,
    namespace: Namespace,
    name: String,
}

impl Place {
    /// A file of this name in the folder of this namespace.
    #[must_use]
    pub fn new(tree: &Path, namespace: &Namespace, name: &str) -> Self {
        Self { tree: tree.to_owned(), namespace: namespace.clone(), name: name.to_owned() }
    }

    /// Its path, for messages: the tree's reader calls it so.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder().join(&self.name)
    }

    fn folder(&self) -> PathBuf {
        let mut path = self.tree.clone();
        path.extend(self.namespace.segments());
        path
    }

    /// Whether the reader would come to it at all.
    #[must_use]
    pub fn is_too_deep(&self) -> bool {
        self.namespace.segments().count() > MAX_DEPTH
    }

    /// Writes the file as a whole, in folders that are made if they are not there.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let folder = self.walk(true)?.pop().ok_or(Errno::ENOENT)?;
        let staged = format!(".{}.{:016x}", self.name, random()?);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | PLAIN;
        let opened = openat(&folder, staged.as_str(), flags, Mode::from_bits_truncate(0o600))?;
        let mut file = File::from(opened);
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.set_permissions(PermissionsExt::from_mode(FILE_MODE)))
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(renameat(&folder, staged.as_str(), &folder, self.name.as_str())?));
        if written.is_err() {
            // What was begun is nobody's.
            let _ = unlinkat(&folder, staged.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    /// Removes the file, and the folders that are empty without it, but for the first `kept` of the namespace's.
    pub fn remove(&self, kept: usize) -> io::Result<()> {
        let folders = self.walk(false)?;
        let folder = folders.last().ok_or(Errno::ENOENT)?;
        unlinkat(folder, self.name.as_str(), UnlinkatFlags::NoRemoveDir)?;
        let segments: Vec<&str> = self.namespace.segments().collect();
        for (parent, segment) in folders.iter().zip(&segments).skip(kept).rev() {
            if unlinkat(parent, *segment, UnlinkatFlags::RemoveDir).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Who owns the nearest folder that is there: they can change what this user cannot.
    #[must_use]
    pub fn owner(&self) -> Option<(PathBuf, u32)> {
        let folder = self.folder();
        let mut there = folder.ancestors().take_while(|path| path.starts_with(&self.tree));
        there.find_map(|path| Some((path.to_owned(), path.symlink_metadata().ok()?.uid())))
    }

    /// The folders from the tree's down to the file's.
    fn walk(&self, make: bool) -> io::Result<Vec<OwnedFd>> {
        let mut folders = vec![open_root(&self.tree)?];
        for segment in self.namespace.segments() {
            let above = folders.last().ok_or(Errno::ENOENT)?;
            let made = make
                && match mkdirat(above, segment, Mode::from_bits_truncate(0o700)) {
                    Ok(()) => true,
                    Err(Errno::EEXIST) => false,
                    Err(error) => return Err(error.into()),
                };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | PLAIN;
            let folder = openat(above, segment, flags, Mode::empty())?;
            if made {
                // The daemon's mask must not keep readers out.
                let mode = Mode::from_bits_truncate(FOLDER_MODE);
                nix::sys::stat::fchmod(folder.as_fd(), mode)?;
            }
            folders.push(folder);
        }
        Ok(folders)
    }
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    const OPEN: &str = "permit(principal, action, resource);";

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("tree/acme/shop")).unwrap();
        for path in ["tree", "tree/acme", "tree/acme/shop"] {
            fs::set_permissions(folder.path().join(path), fs::Permissions::from_mode(0o755))
                .unwrap();
        }
        fs::write(folder.path().join("tree/zz.cedar"), "forbid(principal, action, resource);")
            .unwrap();
        folder
    }

    fn owners(text: &str) -> Owners {
        Owners::parse(&[SourceFile::new("owners.cedar", text)]).unwrap()
    }

    fn told(tree: &Path, owners: Option<&Owners>) -> String {
        let findings = read(tree, owners).unwrap_err();
        findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn links_of_either_kind_and_pipes_are_refused() {
        let folder = tree();
        let tree = folder.path().join("tree");
        let link = tree.join("acme/shop/a.cedar");
        symlink("../../zz.cedar", &link).unwrap();
        assert!(told(&tree, None).contains("a.cedar: is a symbolic link"));
        fs::remove_file(&link).unwrap();
        symlink("../..", tree.join("acme/shop/eu")).unwrap();
        assert!(told(&tree, None).contains("eu: is a symbolic link"));
        fs::remove_file(tree.join("acme/shop/eu")).unwrap();
        nix::unistd::mkfifo(&link, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(told(&tree, None).contains("a.cedar: is no plain file"));
        fs::remove_file(&link).unwrap();
        fs::hard_link(tree.join("zz.cedar"), &link).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let all = format!("permit(principal, action, resource) when {{ principal.uid == {own} }};");
        assert!(told(&tree, Some(&owners(&all))).contains("a.cedar: has a second name"));
    }

    #[test]
    fn who_owns_a_folder_must_be_allowed_everything_below() {
        if !nix::unistd::geteuid().is_root() {
            return; // Only root can give folders away.
        }
        let folder = tree();
        let tree = folder.path().join("tree");
        fs::create_dir(tree.join("acme/shop/vault")).unwrap();
        fs::set_permissions(tree.join("acme/shop/vault"), fs::Permissions::from_mode(0o755))
            .unwrap();
        fs::write(tree.join("acme/shop/vault/v.cedar"), OPEN).unwrap();
        fs::set_permissions(
            tree.join("acme/shop/vault/v.cedar"),
            fs::Permissions::from_mode(0o644),
        )
        .unwrap();
        fs::set_permissions(tree.join("zz.cedar"), fs::Permissions::from_mode(0o644)).unwrap();
        chown(tree.join("acme/shop"), Some(4711), None).unwrap();
        let one = "permit(principal, action, resource == Namespace::\"/acme/shop\") when { principal.uid == 4711 };";
        assert!(
            told(&tree, Some(&owners(one))).contains("uid 4711 may not write in /acme/shop/vault")
        );
        let all =
            one.replace("==  Namespace", "in Namespace").replace("resource == ", "resource in ");
        assert_eq!(read(&tree, Some(&owners(&all))).unwrap().len(), 2);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let folder = tree();
        let tree = folder.path().join("tree");
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        symlink("../../../elsewhere", tree.join("acme/shop/eu")).unwrap();
        let place = Place::new(&tree, &"/acme/shop/eu".parse().unwrap(), "x.cedar");
        assert!(place.write(OPEN).is_err() && place.remove(0).is_err());
        assert_eq!(fs::read_dir(folder.path().join("elsewhere")).unwrap().count(), 0);
        // A link in the file's own place is replaced, not followed.
        let place = Place::new(&tree, &"/acme".parse().unwrap(), "x.cedar");
        symlink("../../elsewhere/y", tree.join("acme/x.cedar")).unwrap();
        place.write(OPEN).unwrap();
        assert!(tree.join("acme/x.cedar").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn folders_come_with_the_first_file_and_go_with_the_last() {
        let folder = tree();
        let tree = folder.path().join("tree");
        let place = Place::new(&tree, &"/acme/new/one".parse().unwrap(), "x.cedar");
        place.write(OPEN).unwrap();
        let mode = |path: &str| fs::metadata(tree.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("acme/new/one"), mode("acme/new/one/x.cedar")), (0o755, 0o644));
        assert_eq!(read(&tree, None).unwrap()[0].scope.as_str(), "/acme/new/one");
        place.remove(2).unwrap();
        assert!(!tree.join("acme/new/one").exists() && tree.join("acme/new").exists());
        place.write(OPEN).unwrap();
        place.remove(0).unwrap();
        assert!(!tree.join("acme/new").exists() && tree.join("acme/shop").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_opened_is_never_left_out() {
        let folder = tree();
        let tree = folder.path().join("tree");
        let shut = tree.join("acme/shop");
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).unwrap();
        // Root's rights over files are among those that the daemon gives up.
        let without_rights = std::thread::spawn(move || {
            caps::clear(None, caps::CapSet::Effective).unwrap();
            told(&tree, None)
        });
        let found = without_rights.join().unwrap();
        assert!(found.contains("acme/shop: cannot be read"), "{found}");
    }

    #[test]
    fn too_much_is_told_once_and_not_read() {
        let folder = tree();
        let tree = folder.path().join("tree");
        for n in 0..=MAX_FILES {
            fs::create_dir(tree.join(format!("acme/n{n}"))).unwrap();
        }
        let found = told(&tree, None);
        assert!(found.contains("holds more than") && found.lines().count() == 1, "{found}");
        for n in 0..40 {
            let file = File::create(tree.join(format!("{n}.cedar"))).unwrap();
            file.set_len(MAX_FILE_BYTES).unwrap();
        }
        fs::remove_dir_all(tree.join("acme")).unwrap();
        let found = told(&tree, None);
        assert!(found.contains("is too much") && found.lines().count() == 1, "{found}");
    }
}
