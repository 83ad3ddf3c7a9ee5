DROP FUNCTION take_arrivals(json, bytea[], double precision);
