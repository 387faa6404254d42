//! The one place where numbers of the operating system become the contract's errors.

use rustix::io::Errno;
use sdk::host::FileError;

/// What a failed file operation's error number means.
pub(crate) fn file_error(errno: i32) -> FileError {
    match Errno::from_raw_os_error(errno) {
        Errno::IO | Errno::ILSEQ | Errno::NODATA | Errno::UCLEAN => FileError::Medium,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FileError::NoSpace,
        Errno::NODEV | Errno::NXIO => FileError::Gone,
        Errno::OPNOTSUPP | Errno::INVAL => FileError::NotSupported,
        Errno::CANCELED => FileError::Cancelled,
        other => FileError::Other(other.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_numbers() {
        assert_eq!(file_error(Errno::IO.raw_os_error()), FileError::Medium);
        assert_eq!(file_error(Errno::NOSPC.raw_os_error()), FileError::NoSpace);
        assert_eq!(file_error(Errno::NODEV.raw_os_error()), FileError::Gone);
        assert_eq!(
            file_error(Errno::OPNOTSUPP.raw_os_error()),
            FileError::NotSupported
        );
        assert_eq!(
            file_error(Errno::CANCELED.raw_os_error()),
            FileError::Cancelled
        );
        let odd = Errno::ACCESS.raw_os_error();
        assert_eq!(file_error(odd), FileError::Other(odd));
    }
}
