ALTER INDEX queue_due RESET (deduplicate_items);
ALTER INDEX arrival_queue_due RESET (deduplicate_items);
ALTER INDEX webhook_queue_due RESET (deduplicate_items);
