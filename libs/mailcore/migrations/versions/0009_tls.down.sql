-- Takes back 0009_tls.sql.
DROP FUNCTION lookup_mta_sts(text), lookup_tls_host(text, text[]);
DROP TABLE received_tls_reports, domain_mta_sts, tls_reports, tls_results, mta_sts_policies;
ALTER TABLE attempts DROP tls_policy;
