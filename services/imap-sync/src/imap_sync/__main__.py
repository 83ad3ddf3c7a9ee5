from imap_sync.main import main

main()
