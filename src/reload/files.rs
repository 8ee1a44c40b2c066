//! Whether files have changed, by what the file system says of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Of a file: its number on the disk, when it was changed, how long it is. A link tells of what it leads to.
pub type Mark = Option<(u64, u64, i64, i64, u64)>;

/// Those of these files.
pub fn marks(files: Vec<PathBuf>) -> Vec<Mark> {
    files.iter().map(|file| mark(file)).collect()
}

fn mark(file: &Path) -> Mark {
    let facts = fs::metadata(file).ok()?;
    Some((facts.dev(), facts.ino(), facts.ctime(), facts.ctime_nsec(), facts.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_renamed_or_gone_has_another_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let look = || marks(vec![one.clone()]);
        let mut all = vec![look()];
        fs::write(&one, "a").expect("written");
        all.push(look());
        assert_eq!(all.last(), Some(&look()));
        fs::write(&two, "b").expect("written");
        fs::rename(&two, &one).expect("renamed");
        all.push(look());
        fs::write(&one, "longer").expect("written");
        all.push(look());
        all.dedup();
        assert_eq!(all.len(), 4);
        fs::remove_file(&one).expect("removed");
        assert_eq!(look(), all[0]);
    }
}
